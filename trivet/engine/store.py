"""Parts of the cache as files: the leading blocks of a sequence, for an engine that is started later.

A file is MAGIC, the header's length (uint32), the header (JSON), the tokens (int32), the blocks one after another, and
a BLAKE2b of all that. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec
import numpy as np

from trivet.engine.archive import BlockArchive
from trivet.engine.blocks import BlockPool, block_key, root_key
from trivet.errors import RequestError
from trivet.runtime.base import Runtime

MAGIC = b"TRIVETKV"
VERSION = 1
DIGEST_BYTES = 32
MAX_HEADER = 1 << 16
CHUNK = 1 << 24
"""Bytes hashed at a time."""


class Header(msgspec.Struct, kw_only=True):
    """`identity` says what computed the blocks: in an engine where it is the same, they are the same to the bit."""

    version: int
    identity: dict[str, str]
    block_size: int
    block_bytes: int
    num_blocks: int


class PrefixStore:
    """Saves blocks of one engine's pool, loads them, drops them. To be used between its steps only."""

    def __init__(self, runtime: Runtime, pool: BlockPool, block_size: int, archive: BlockArchive | None = None) -> None:
        self._runtime = runtime
        self._archive = archive
        self._pool = pool
        self._block_size = block_size
        self._block_bytes = runtime.block_bytes(block_size)

    def save(self, tokens: Sequence[int], salt: str, path: Path) -> tuple[list[int], int]:
        """Write the leading full blocks of a sequence that are cached. Returns their tokens, and the file's bytes.

        Raises RequestError when the file cannot be written; then there is none, or the one that was there before.
        """
        blocks = list(self._cached(tokens, salt))
        kept = list(tokens[: len(blocks) * self._block_size])
        header = msgspec.json.encode(
            Header(
                version=VERSION,
                identity=dict(self._runtime.identity()),
                block_size=self._block_size,
                block_bytes=self._block_bytes,
                num_blocks=len(blocks),
            )
        )
        digest = blake2b(digest_size=DIGEST_BYTES)
        try:
            with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
                unfinished = Path(file.name)
                try:
                    for part in self._parts(header, kept, blocks):
                        digest.update(part)
                        file.write(part)
                    file.write(digest.digest())
                    size = file.tell()
                    file.close()
                    unfinished.rename(path)
                finally:
                    unfinished.unlink(missing_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a null character
            raise RequestError(f"cannot write {path}: {getattr(error, 'strerror', error)}", "filename") from None
        return kept, size

    def load(self, path: Path, salt: str, vocab_size: int) -> tuple[list[int], int]:
        """Make the blocks of a file findable. Returns their tokens, and the file's bytes.

        Raises RequestError when the file is damaged, of another engine, or holds more than the cache has room for.
        """
        try:
            data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: it is empty, or a null character
            raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', error)}", "filename") from None
        try:
            tokens, blocks = _parse(data, self._runtime.identity(), self._block_size, self._block_bytes)
        except RequestError as error:
            raise RequestError(f"{path}: {error}", "filename") from None
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
            raise RequestError(f"{path}: it holds token ids outside the vocabulary of {vocab_size} tokens", "filename")
        self._insert(tokens.tolist(), salt, blocks)
        return tokens.tolist(), len(data)

    def drop(self, tokens: Sequence[int], salt: str) -> list[int]:
        """Forget the cached blocks of a sequence, in the archive too. Returns the tokens they held."""
        dropped = 0
        for key in self._keys(tokens, salt):
            block = self._pool.find(key)
            archived = self._archive is not None and self._archive.forget(key)
            if block is not None:
                self._pool.drop(block)
            elif not archived:
                break
            dropped += self._block_size
        return list(tokens[:dropped])

    def _parts(self, header: bytes, tokens: list[int], blocks: list[int]) -> Iterator[bytes | memoryview]:
        yield MAGIC + struct.pack("<I", len(header)) + header
        yield np.array(tokens, "<i4").tobytes()
        for block in blocks:
            yield self._runtime.read_block(block).data

    def _insert(self, tokens: list[int], salt: str, data: np.ndarray) -> None:
        keys = list(self._keys(tokens, salt))
        found = [self._pool.find(key) for key in keys]
        # Those that are there already are held, lest they be what makes room for the others.
        held = [block for block in found if block is not None]
        for block in held:
            self._pool.share(block)
        missing = len(keys) - len(held)
        if missing > self._pool.available:
            self._pool.release(held)
            raise RequestError(
                f"the file holds {len(keys)} blocks, of which {missing} are not in the cache; "
                f"it has room for {self._pool.available} now",
                "filename",
            )
        blocks = [self._pool.allocate() if there is None else there for there in found]
        try:
            for index, (key, there) in enumerate(zip(keys, found, strict=True)):
                if there is None:
                    self._runtime.write_block(blocks[index], data[index])
                    self._pool.publish(blocks[index], key)
        finally:
            self._pool.release(blocks)

    def _cached(self, tokens: Sequence[int], salt: str) -> Iterator[int]:
        for key in self._keys(tokens, salt):
            block = self._pool.find(key)
            if block is None:
                return
            yield block

    def _keys(self, tokens: Sequence[int], salt: str) -> Iterator[bytes]:
        """Of the full blocks."""
        ids, size = np.array(tokens, np.int32), self._block_size
        key = root_key(salt)
        for end in range(size, len(ids) + 1, size):
            key = block_key(key, ids[end - size : end])
            yield key


def _parse(
    data: np.ndarray, identity: Mapping[str, str], block_size: int, block_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [T] int32 and blocks [B, bytes] of a whole file. Raises RequestError."""
    start = len(MAGIC) + 4
    if data[: len(MAGIC)].tobytes() != MAGIC:
        raise RequestError("this is no file of saved cache blocks")
    length = int.from_bytes(data[len(MAGIC) : start].tobytes(), "little")
    try:
        header = msgspec.json.decode(data[start : start + min(length, MAX_HEADER)].tobytes(), type=Header)
    except (msgspec.DecodeError, UnicodeError):
        raise RequestError("the file is damaged: its header cannot be read") from None
    if header.version != VERSION:
        raise RequestError(f"the file is of version {header.version}; this program reads version {VERSION}")
    ours = {**identity, "block size": str(block_size), "bytes of a block": str(block_bytes)}
    theirs = header.identity | {
        "block size": str(header.block_size),
        "bytes of a block": str(header.block_bytes),
    }
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            raise RequestError(f"it is of another engine: its {name} is {theirs.get(name)}, and here {ours.get(name)}")
    tokens_at = start + length
    blocks_at = tokens_at + 4 * block_size * header.num_blocks
    end = blocks_at + block_bytes * header.num_blocks
    if header.num_blocks < 0 or end + DIGEST_BYTES != len(data):
        raise RequestError(f"the file is damaged: it has {len(data)} bytes where {end + DIGEST_BYTES} are expected")
    digest = blake2b(digest_size=DIGEST_BYTES)
    for at in range(0, end, CHUNK):
        digest.update(data[at : min(at + CHUNK, end)].data)
    if digest.digest() != data[end:].tobytes():
        raise RequestError("the file is damaged: its checksum is wrong")
    tokens = data[tokens_at:blocks_at].view("<i4").astype(np.int32)
    return tokens, data[blocks_at:end].reshape(header.num_blocks, block_bytes)
