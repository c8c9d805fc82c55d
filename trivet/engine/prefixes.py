"""Which sequences share which blocks: those cached already, and those another is about to compute."""

from __future__ import annotations

import time
from collections.abc import Callable

from trivet.engine.archive import BlockArchive
from trivet.engine.blocks import BlockPool
from trivet.engine.sequence import Sequence


class Prefixes:
    """Finds the blocks a sequence can start from, and holds it while another computes more of its prefix.

    A running sequence promises the full blocks that it will compute. A sequence that would compute the same
    ones is parked until they are there, or until the promise is broken: then `wake` is called with it, and it
    is looked up again. Where there is an archive, blocks go there too, and come back from there.
    """

    def __init__(
        self, pool: BlockPool, block_size: int, wake: Callable[[Sequence], None], archive: BlockArchive | None = None
    ) -> None:
        self.pool = pool
        self._archive = archive
        self.block_size = block_size
        self._wake = wake
        self._promises: dict[bytes, Sequence] = {}
        self._parked: dict[bytes, list[Sequence]] = {}

    def lookup(self, sequence: Sequence) -> list[int]:
        """The leading blocks that are cached, not yet shared. At least one token is left to compute."""
        hits: list[int] = []
        if sequence.keys is None:
            return hits
        for key in sequence.keys[: self._shareable(sequence)]:
            block = self.pool.find(key)
            if block is None:
                break
            hits.append(block)
        return hits

    def park(self, sequence: Sequence, hits: int) -> bool:
        """Set the sequence aside if blocks after the first `hits` are promised, by none that is less urgent."""
        if sequence.keys is None:
            return False
        for key in sequence.keys[hits : self._shareable(sequence)]:
            owner = self._promises.get(key)
            if owner is None or owner.order[0] > sequence.order[0]:
                break
            sequence.awaited = key
        if sequence.awaited is None:
            return False
        self._parked.setdefault(sequence.awaited, []).append(sequence)
        return True

    def unpark(self, sequence: Sequence) -> None:
        """Forget a parked sequence."""
        assert sequence.awaited is not None
        parked = self._parked[sequence.awaited]
        parked.remove(sequence)
        if not parked:
            del self._parked[sequence.awaited]
        sequence.awaited = None

    def promise(self, sequence: Sequence, hits: int) -> None:
        """A sequence begins to compute its tokens after the first `hits` blocks."""
        if sequence.keys is None:
            return
        full = sequence.num_tokens // self.block_size
        sequence.extend_keys(full, self.block_size)
        for key in sequence.keys[hits:full]:
            if key not in self.pool and key not in self._promises:
                self._promises[key] = sequence
                sequence.promised.add(key)

    def publish(self, sequence: Sequence, start: int, stop: int) -> None:
        """Blocks start..stop-1 of the sequence are full and computed."""
        if sequence.keys is None:
            return
        sequence.extend_keys(stop, self.block_size)
        for index in range(start, stop):
            key = sequence.keys[index]
            if self.pool.publish(sequence.blocks[index], key) and self._archive is not None:
                self._archive.save(sequence.blocks[index], key)
            self._keep(sequence, key)

    def restore(self, sequence: Sequence, until: float) -> bool:
        """Take what comes after a sequence's computed tokens from the archive; False if that has more.

        until: the time (`time.monotonic`) to stop at, though not before the first block.
        """
        start = sequence.computed // self.block_size
        if self._archive is None or sequence.keys is None or sequence.computed % self.block_size:
            return True
        for index, key in enumerate(sequence.keys[start : self._shareable(sequence)], start):
            if key not in self._archive:
                break
            if time.monotonic() > until and index > start:
                return False
            block = sequence.blocks[index]
            if not self._archive.load(block, key):
                break
            sequence.computed += self.block_size
            self.pool.publish(block, key)
            self._keep(sequence, key)
        return True

    def retract(self, sequence: Sequence) -> None:
        """The sequence will not compute what it promised and has not yet published."""
        for key in sequence.promised:
            if self._promises.get(key) is sequence:
                del self._promises[key]
                self._awaken(key)
        sequence.promised.clear()

    def _keep(self, sequence: Sequence, key: bytes) -> None:
        """A promise is kept."""
        sequence.promised.discard(key)
        self._promises.pop(key, None)
        self._awaken(key)

    def _awaken(self, key: bytes) -> None:
        for sequence in self._parked.pop(key, ()):
            sequence.awaited = None
            self._wake(sequence)

    def _shareable(self, sequence: Sequence) -> int:
        """How many blocks may come from the cache: tokens whose logits are needed must be computed."""
        tokens = sequence.num_tokens - 1
        if sequence.prompt_logprobs is not None:
            tokens = min(tokens, len(sequence.prompt_logprobs) - 1)
        count = tokens // self.block_size
        sequence.extend_keys(count, self.block_size)
        return count
