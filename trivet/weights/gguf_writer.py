"""Writing GGUF, version 3. Tensors are written as they come, so a model need not fit in memory."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from trivet.errors import ModelError
from trivet.weights.gguf import DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS
from trivet.weights.gguf_values import ValueType, encode_string, encode_value, infer_type
from trivet.weights.tensor import TensorInfo

VERSION = 3
MAX_TENSOR_NAME_BYTES = 63
"""What llama.cpp reads."""


class GGUFWriter:
    """A context manager that writes one file; it appears under its name when the block ends without an error.

    metadata: bools, numbers, strings, and lists of one of these. `types` says the type of a key's value, or of its
        list's elements; for other keys it is inferred (see `infer_type`).
    tensors: what `write` will be called with, in this order.

    Raises ModelError when the file cannot be written, or for metadata and tensors that GGUF cannot hold.
    """

    def __init__(
        self,
        path: str | Path,
        metadata: Mapping[str, Any],
        tensors: Iterable[TensorInfo],
        types: Mapping[str, ValueType] | None = None,
    ) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(self._path.name + ".part")
        self._tensors = list(tensors)
        self._alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        self._header = self._encode_header(metadata, types or {})
        self._index = 0
        self._written = 0

    def __enter__(self) -> Self:
        with self._reporting():
            self._file = self._partial.open("wb")
        try:
            self._put(self._header)
            self._pad()
        except ModelError as e:
            self.__exit__(type(e), e, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            with self._reporting():
                self._file.close()
                if kind is None and self._index < len(self._tensors):
                    raise ValueError(f"{self._path}: tensor {self._tensors[self._index].name!r} is not complete")
                if kind is None:
                    self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, name: str, data: np.ndarray) -> None:
        """Append bytes to a tensor: its rows in order, in as many calls as one likes."""
        info = self._tensors[self._index] if self._index < len(self._tensors) else None
        if info is None or info.name != name:
            raise ValueError(f"{self._path}: tensor {name!r} is not the next, {info.name if info else 'the end'!r} is")
        self._written += data.nbytes
        if self._written > info.num_bytes:
            raise ValueError(f"{self._path}: tensor {name!r} takes {info.num_bytes} bytes, {self._written} are given")
        self._put(np.ascontiguousarray(data).data)
        if self._written == info.num_bytes:
            self._pad()
            self._index += 1
            self._written = 0

    def _encode_header(self, metadata: Mapping[str, Any], types: Mapping[str, ValueType]) -> bytes:
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self._tensors), len(metadata))]
        for key, value in metadata.items():
            try:
                parts += [encode_string(key), encode_value(value, types[key] if key in types else infer_type(value))]
            except ValueError as e:
                raise ModelError(f"{self._path}: metadata key {key!r}: {e}") from None
        names = set()
        offset = 0
        for info in self._tensors:
            if info.name in names or len(info.name.encode()) > MAX_TENSOR_NAME_BYTES:
                raise ModelError(
                    f"{self._path}: tensor name {info.name!r} is used twice, or longer than "
                    f"{MAX_TENSOR_NAME_BYTES} bytes"
                )
            if not 1 <= len(info.shape) <= MAX_DIMENSIONS or min(info.shape) < 1:
                raise ModelError(
                    f"{self._path}: tensor {info.name!r} has the shape {list(info.shape)}, "
                    f"which is not of 1 to {MAX_DIMENSIONS} dimensions of at least 1"
                )
            names.add(info.name)
            dimensions = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
            parts += [encode_string(info.name), dimensions, struct.pack("<IQ", info.format.type_id, offset)]
            offset += -(-info.num_bytes // self._alignment) * self._alignment
        return b"".join(parts)

    def _pad(self) -> None:
        self._put(bytes(-self._file.tell() % self._alignment))

    def _put(self, data: bytes | memoryview) -> None:
        with self._reporting():
            self._file.write(data)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise ModelError(f"{self._path}: cannot be written: {e.strerror}") from None
