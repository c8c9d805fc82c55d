"""The sequences that wait, and whose turn it is."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter

from trivet.engine.sequence import Sequence

Rank = tuple[int, int, int]
_ORDER = attrgetter("order")


class WaitingQueue:
    """Serves by priority, among equals the tenant that has had least, and of one tenant who came first.

    What a tenant has had is counted in tokens, and in virtual time (start-time fair queueing: Goyal, Vin, Cheng 1996):
    one that was away starts from where those who were served in the meantime have got to, so that no right is saved up.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[Sequence]] = {}
        """By tenant, those with any sequence waiting; each by `Sequence.order`."""
        self.served: dict[str, int] = {}
        """Tokens that tenants have had; what is generated for them is to be counted here."""
        self._unfinished: Counter[str] = Counter()
        self._now = 0
        """Virtual time: what the tenant served last had when its sequence started."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    @property
    def first(self) -> Sequence | None:
        """Whose turn it is."""
        return min((queue[0] for queue in self._queues.values()), key=self.rank, default=None)

    def rank(self, sequence: Sequence) -> Rank:
        """Least first."""
        priority, arrival = sequence.order
        return priority, self.served[sequence.tenant], arrival

    def join(self, tenant: str) -> None:
        """A request of this tenant has come."""
        if not self._unfinished[tenant]:
            active = self._unfinished
            self.served = {name: had for name, had in self.served.items() if active[name] or had > self._now}
            self.served.setdefault(tenant, self._now)
        self._unfinished[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request of this tenant has ended."""
        self._unfinished[tenant] -= 1
        if not self._unfinished[tenant]:
            del self._unfinished[tenant]

    def push(self, sequence: Sequence) -> None:
        insort(self._queues.setdefault(sequence.tenant, []), sequence, key=_ORDER)

    def remove(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.tenant]
        del queue[bisect_left(queue, sequence.order, key=_ORDER)]
        if not queue:
            del self._queues[sequence.tenant]

    def start(self, tenant: str, tokens: int) -> None:
        """A sequence of this tenant starts, with so many tokens to be computed."""
        self._now = max(self._now, self.served[tenant])
        self.served[tenant] += tokens
