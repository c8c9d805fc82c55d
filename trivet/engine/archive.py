"""Cached blocks as files, which outlive the engine: one with the same model finds them again."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from trivet.errors import EngineError
from trivet.runtime.base import Runtime

logger = logging.getLogger(__name__)

DIGEST_BYTES = 32
UNWRITTEN = 64 << 20
"""Bytes that may wait to be written; blocks that come while these do are not kept."""


class BlockArchive:
    """Keeps what `save` is given, least recently used dropped first where `limit` bytes are not enough.

    A file is named by its block's key, in a folder for those engines whose blocks are the same to the bit; it holds a
    BLAKE2b of folder, key and block, then the block. Files are written by a thread of their own. To be used between the
    steps of an engine only, by one thread.
    """

    def __init__(self, runtime: Runtime, block_size: int, directory: Path, limit: int) -> None:
        """Raises EngineError when the folder cannot be used."""
        self._runtime = runtime
        self._limit = limit
        self._block_bytes = runtime.block_bytes(block_size)
        self._name = _folder_name(runtime.identity(), block_size, self._block_bytes)
        self._directory = directory
        self._files: OrderedDict[Path, int] = OrderedDict()
        """Bytes of each file, least recently used first; this and the sums of bytes are under the lock."""
        self._lock = threading.Lock()
        self._written = 0
        self._unwritten = 0
        self._writer = ThreadPoolExecutor(1, "trivet-archive")
        try:
            (directory / self._name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise EngineError(f"the prefix cache cannot be kept in {directory}: {error.strerror}") from None
        self._trim()

    def __contains__(self, key: bytes) -> bool:
        return self._path(key) in self._files

    def save(self, block: int, key: bytes) -> None:
        """Keep a copy of a block, which is written later."""
        path, size = self._path(key), self._block_bytes + DIGEST_BYTES
        with self._lock:
            if path in self._files:
                self._files.move_to_end(path)
                return
            if size > self._limit or self._unwritten + size > UNWRITTEN:
                return
            self._unwritten += size
        self._writer.submit(self._write, path, key, self._runtime.read_block(block))

    def load(self, block: int, key: bytes) -> bool:
        """Fill a block with the content of that key; False if it is not there, or damaged and therefore dropped."""
        path = self._path(key)
        if path not in self._files:
            return False
        try:
            content = np.fromfile(path, np.uint8)
            os.utime(path)
        except OSError as error:
            self._drop(path, f"cannot be read ({error.strerror})")
            return False
        data = content[DIGEST_BYTES:]
        if len(data) != self._block_bytes or content[:DIGEST_BYTES].tobytes() != self._digest(key, data):
            self._drop(path, "is damaged")
            return False
        self._runtime.write_block(block, data)
        with self._lock:
            if path in self._files:  # The writer may have dropped it meanwhile, for others to fit.
                self._files.move_to_end(path)
        return True

    def forget(self, key: bytes) -> bool:
        """Remove a block's file, also one that is yet to be written; whether there was one."""
        path, found = self._path(key), key in self
        self._writer.submit(self._remove, path)
        return found

    def close(self) -> None:
        """Write what waits for it."""
        self._writer.shutdown()

    def _path(self, key: bytes) -> Path:
        return self._directory / self._name / f"{key.hex()}.kv"

    def _digest(self, key: bytes, data: np.ndarray) -> bytes:
        digest = blake2b(self._name.encode() + key, digest_size=DIGEST_BYTES)
        digest.update(data.data)
        return digest.digest()

    def _scan(self) -> None:
        """Find what earlier engines have left, of all models: the limit is for the whole directory."""
        found = []
        for path in self._directory.glob("*/*"):
            if path.suffix == ".part":
                path.unlink(missing_ok=True)
            elif path.suffix == ".kv":
                found.append((path.stat().st_mtime_ns, path, path.stat().st_size))
        self._files.update((path, size) for _, path, size in sorted(found))
        self._written = sum(self._files.values())

    def _write(self, path: Path, key: bytes, data: np.ndarray) -> None:
        unfinished = path.with_suffix(".part")
        try:
            with unfinished.open("wb") as file:
                file.write(self._digest(key, data))
                file.write(data.data)
            unfinished.rename(path)
        except OSError as error:
            logger.warning("the prefix cache cannot write %s: %s", unfinished, error.strerror)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        else:
            with self._lock:
                if path not in self._files:
                    self._files[path] = self._block_bytes + DIGEST_BYTES
                    self._written += self._files[path]
            self._trim()
        finally:
            with self._lock:
                self._unwritten -= self._block_bytes + DIGEST_BYTES

    def _trim(self) -> None:
        with self._lock:
            dropped = []
            while self._written > self._limit:
                path, size = self._files.popitem(last=False)
                self._written -= size
                dropped.append(path)
        for path in dropped:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _drop(self, path: Path, why: str) -> None:
        logger.warning("the prefix cache drops %s: it %s", path, why)
        self._remove(path)

    def _remove(self, path: Path) -> None:
        with self._lock:
            self._written -= self._files.pop(path, 0)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _folder_name(identity: Mapping[str, str], block_size: int, block_bytes: int) -> str:
    lines = [f"{name}: {value}" for name, value in sorted(identity.items())]
    return blake2b("\n".join([*lines, f"{block_size} {block_bytes}"]).encode(), digest_size=16).hexdigest()
