"""Slots: llama.cpp's places for sequences. Here they are no more than names, given to the sequences of this dialect as
they run; the cache is everybody's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trivet.server.service import Service

if TYPE_CHECKING:
    from trivet.server.dialects.llamacpp.generation import Sequence as RunningSequence

SIMILAR = 0.1
"""Share of a prompt that a slot must have begun with to be preferred to the one longest unused."""


@dataclass(slots=True, eq=False)
class Slot:
    """`sequence` is the one that it runs, or ran last; `tokens` are those it left in the cache, under `salt`."""

    id: int
    sequence: RunningSequence | None = None
    tokens: list[int] = field(default_factory=list)
    salt: str = ""
    last_used: int = -1
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()


class Slots:
    """A sequence enters before it runs and leaves when it is over. While no slot is idle it has none, and gets the
    first that becomes so.
    """

    def __init__(self, count: int) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._waiting: deque[RunningSequence] = deque()
        self._clock = itertools.count()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def enter(self, sequence: RunningSequence, wanted: int = -1) -> None:
        """Give the sequence the slot it wants (-1: any), if that is idle, or else the most suitable one that is."""
        sequence.task = next(self._clock)
        idle = [slot for slot in self._slots if slot.idle.is_set()]
        if not idle:
            self._waiting.append(sequence)
            return
        named = [slot for slot in idle if slot.id == wanted]
        self._occupy(named[0] if named else _most_suitable(idle, sequence.prompt), sequence)

    def leave(self, sequence: RunningSequence) -> None:
        slot = sequence.slot
        if slot is None:
            self._waiting.remove(sequence)
            return
        slot.tokens, slot.salt = sequence.in_cache, sequence.salt
        slot.last_used = next(self._clock)
        slot.idle.set()
        if self._waiting:
            self._occupy(slot, self._waiting.popleft())

    @staticmethod
    def _occupy(slot: Slot, sequence: RunningSequence) -> None:
        slot.idle.clear()
        slot.sequence = sequence
        sequence.slot = slot


def slots_of(service: Service) -> Slots:
    """The service's."""
    return service.kept(Slots, lambda: Slots(service.options.num_slots or service.llm.info.max_num_seqs))


def _most_suitable(slots: Sequence[Slot], prompt: Sequence[int]) -> Slot:
    """The one that holds most of the prompt's beginning, if that is enough; else the one longest unused."""
    shared, best = max(((_common(slot.tokens, prompt), slot) for slot in slots), key=lambda pair: pair[0])
    if shared > SIMILAR * len(prompt):
        return best
    return min(slots, key=lambda slot: slot.last_used)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
