"""Files in memory, as the system maps them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np


class MappedFile(mmap.mmap):
    """A file, read-only. Raises OSError, or ValueError where it is empty.

    `descriptor` is for reading it by calls. They bring nothing into this process's memory but what they read, where to
    look at a mapped page also brings its neighbours: up to 2 MiB, if the system's cache has them in one piece.
    """

    descriptor: int

    def __new__(cls, path: Path) -> MappedFile:
        with path.open("rb") as file:
            mapped = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.descriptor = os.dup(file.fileno())
        return mapped

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def mapping(array: np.ndarray) -> tuple[MappedFile, int] | None:
    """The mapped file that an array is a view of, and where in it that begins."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, MappedFile):
        return None
    return base, array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data


def release_pages(array: np.ndarray) -> None:
    """Let the system have back the pages of a mapped file under a contiguous view of it; it reads them anew on
    the next access. Does nothing for other arrays.
    """
    found = mapping(array)
    if found is None or not array.flags.c_contiguous:
        return
    file, offset = found
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (offset + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        file.madvise(mmap.MADV_DONTNEED, start, stop - start)
