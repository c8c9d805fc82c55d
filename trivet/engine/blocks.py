"""The blocks of the paged KV cache: who uses which, and what the unused ones still hold."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain

import numpy as np

from trivet.errors import EngineError


def root_key(salt: str) -> bytes:
    """The parent of a sequence's first block; sequences of different salts share nothing."""
    return blake2b(salt.encode(), digest_size=16).digest()


def salt_of(cache_salt: str) -> str:
    """That of the sequences whose requests have this `cache_salt`."""
    return f"salt:{cache_salt}"


def block_key(parent: bytes, tokens: np.ndarray) -> bytes:
    """Names the content of a full block: its tokens (int32) and, through `parent`, all before them.

    The hash is cryptographic, so that equal keys may be taken for equal content whoever chose the tokens.
    """
    return blake2b(parent + tokens.tobytes(), digest_size=16).digest()


class BlockPool:
    """Hands out block ids 0..num_blocks-1, counts references, and finds full blocks again by their key.

    A block is used (referenced), cached (unused, its content still findable) or free. Every operation on a
    block takes constant time.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Least recently used first."""
        self._references = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._index: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` can still hand out."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        return self.num_blocks - self.available

    def allocate(self) -> int:
        """A block for one user; what it held is lost. A free one, else the least recently used cached one."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        return self._index.get(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def is_used(self, block: int) -> bool:
        return self._references[block] > 0

    def share(self, block: int) -> None:
        """Add a user to a block that `find` gave."""
        if not self._references[block]:
            del self._cached[block]
        self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take back one user's blocks, given in the order of its sequence.

        The tail of a sequence is reused before its head: a prefix is worth nothing without what comes before
        it.
        """
        for block in reversed(list(blocks)):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._keys[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def publish(self, block: int, key: bytes) -> bool:
        """Make a full, computed block findable. The first block of a key keeps it; doubles stay private (False)."""
        first = self._index.setdefault(key, block) == block
        if first:
            self._keys[block] = key
        return first

    def drop(self, block: int) -> None:
        """Make a published block not findable any more; it is free unless it has users."""
        self._forget(block)
        if not self._references[block]:
            del self._cached[block]
            self._free.append(block)

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._index[key]
            self._keys[block] = None

    def check_integrity(self, users: Iterable[Iterable[int]]) -> None:
        """Raises EngineError unless free + used + cached == total, with `users` holding the used blocks."""
        counts = Counter(chain.from_iterable(users))
        if len(self._free) + len(counts) + len(self._cached) != self.num_blocks:
            raise EngineError(
                f"block pool: {len(self._free)} free + {len(counts)} used + {len(self._cached)} cached"
                f" is not {self.num_blocks}"
            )
        for block, count in enumerate(self._references):
            if count != counts[block]:
                raise EngineError(f"block pool: block {block} counts {count} users, has {counts[block]}")
        keyed = {block: key for block, key in enumerate(self._keys) if key is not None}
        if {block: key for key, block in self._index.items()} != keyed or len(self._index) != len(keyed):
            raise EngineError("block pool: the index and the blocks' keys differ")
        if any(self._keys[block] is not None for block in self._free):
            raise EngineError("block pool: a free block has a key")
