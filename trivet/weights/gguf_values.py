"""GGUF's metadata values: their types, and reading and writing them (little-endian, lengths as u64)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from trivet._native import EncodedStrings
from trivet.errors import ModelError


class ValueType(IntEnum):
    """ggml's `gguf_type`."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_STRUCTS = {value_type: struct.Struct("<" + code) for value_type, code in _CODES.items()}
_DTYPES = {value_type: np.dtype("<" + code) for value_type, code in _CODES.items()}
MAX_NUMBERS = 2**22
"""Of an array; the longest there are have one for each token of a vocabulary."""
_U64 = _STRUCTS[ValueType.UINT64]
_I32 = _STRUCTS[ValueType.INT32]
_ARRAY_HEADER = struct.Struct("<iiQ")


class Metadata(Mapping[str, Any]):
    """Keys and values of a file. A list of strings is decoded when it is first asked for: of a vocabulary's half a
    million, one who loads weights needs none.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, EncodedStrings):
            value = self._values[key] = value.decode()
        return value

    def encoded(self, key: str) -> Any:
        """A value, a list of strings as it lies in the file unless it was decoded already; None for a missing key."""
        return self._values.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def without(self, keys: Collection[str]) -> Metadata:
        return Metadata({key: value for key, value in self._values.items() if key not in keys})


class Cursor:
    """Reads a mapped file value by value. Every size is checked against the file before it is used, so a damaged
    file costs no more time and memory than its length warrants. What is wrong raises ModelError naming the file,
    what was being read (`what`) and the reason.
    """

    def __init__(self, data: memoryview, path: str) -> None:
        self._data = data
        self._path = path
        self.position = 0

    def error(self, reason: str) -> ModelError:
        return ModelError(f"{self._path}: {reason}")

    @property
    def remaining(self) -> int:
        return len(self._data) - self.position

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes; returns where they start."""
        if size > self.remaining:
            raise self.error(
                f"{what} needs {size} bytes at offset {self.position}, but only {self.remaining} are left "
                "(the file is truncated or damaged)"
            )
        start = self.position
        self.position += size
        return start

    def scalar(self, value_type: ValueType, what: str) -> Any:
        """One value of a type other than STRING and ARRAY."""
        layout = _STRUCTS[value_type]
        (value,) = layout.unpack_from(self._data, self.take(layout.size, what))
        return self._bools([value], what)[0] if value_type is ValueType.BOOL else value

    def string(self, what: str, limit: int | None = None) -> str:
        """Text of at most `limit` bytes."""
        (size,) = _U64.unpack_from(self._data, self.take(_U64.size, what))
        if limit is not None and size > limit:
            raise self.error(f"{what} has {size} bytes; at most {limit} are allowed")
        start = self.take(size, what)
        try:
            return str(self._data[start : self.position], "utf-8")
        except UnicodeDecodeError as e:
            raise self.error(f"{what} is not UTF-8 ({e.reason} at its byte {e.start})") from None

    def value(self, what: str) -> tuple[Any, ValueType]:
        """A value preceded by its type. An array comes as a list or EncodedStrings, with the type of its elements."""
        value_type = self._value_type(what)
        if value_type is ValueType.STRING:
            return self.string(what), value_type
        if value_type is not ValueType.ARRAY:
            return self.scalar(value_type, what), value_type
        value_type = self._value_type(what)
        count = self.scalar(ValueType.UINT64, what)
        if value_type is ValueType.ARRAY:
            raise self.error(f"{what} is an array of arrays; arrays of numbers, bools and strings are supported")
        if value_type is ValueType.STRING:
            return self._strings(count, what), value_type
        if count > MAX_NUMBERS:
            raise self.error(f"{what} claims {count} numbers; at most {MAX_NUMBERS} are allowed")
        dtype = _DTYPES[value_type]
        start = self.take(count * dtype.itemsize, what)
        values = np.frombuffer(self._data, dtype, count, start).tolist()
        return (self._bools(values, what) if value_type is ValueType.BOOL else values), value_type

    def _value_type(self, what: str) -> ValueType:
        number = self.scalar(ValueType.INT32, what)
        try:
            return ValueType(number)
        except ValueError:
            raise self.error(f"{what} has the unknown value type {number}; 0 to 12 are known") from None

    def _bools(self, values: list[int], what: str) -> list[bool]:
        if values and max(values) > 1:
            raise self.error(f"{what} holds a bool of {max(values)}; 0 and 1 are valid")
        return [value == 1 for value in values]

    def _strings(self, count: int, what: str) -> EncodedStrings:
        if count * _U64.size > self.remaining:
            raise self.error(
                f"{what} claims {count} strings at offset {self.position}, but only {self.remaining} bytes are left"
            )
        strings = EncodedStrings(self._data, self.position, count)
        self.position = strings.end
        if len(strings) < count:
            self.string(f"string {len(strings)} of {what}")  # which says what is wrong
        return strings


def infer_type(value: Any) -> ValueType:
    """The type for a value (of a list: for its elements) when nothing else says it. As in GGUF's own keys, single
    integers are UINT32 and lists of them INT32, if they fit.
    """
    values = value if isinstance(value, list) else [value]
    kinds = {type(v) for v in values}
    if kinds == {bool}:
        return ValueType.BOOL
    if kinds <= {str}:
        return ValueType.STRING
    if kinds == {int}:
        low, high = min(values), max(values)
        if low >= 0 and high < 2**32 and not isinstance(value, list):
            return ValueType.UINT32
        if low >= -(2**31) and high < 2**31:
            return ValueType.INT32
        return ValueType.INT64 if low < 0 else ValueType.UINT64
    if kinds <= {int, float}:
        return ValueType.FLOAT32
    raise ValueError(f"GGUF holds bools, numbers, strings and lists of one of these, not {value!r}")


def encode_string(text: str) -> bytes:
    data = text.encode()
    return _U64.pack(len(data)) + data


def encode_value(value: Any, value_type: ValueType) -> bytes:
    """A value preceded by its type; a list becomes an array of `value_type`. Raises ValueError when it does not fit."""
    values = value if isinstance(value, list) else [value]
    if value_type is ValueType.STRING:
        data = b"".join(encode_string(text) for text in values)
    else:
        try:
            data = struct.pack(f"<{len(values)}{_CODES[value_type]}", *values)
        except (struct.error, OverflowError) as e:
            raise ValueError(f"{value!r} does not fit {value_type.name}: {e}") from None
    if isinstance(value, list):
        return _ARRAY_HEADER.pack(ValueType.ARRAY, value_type, len(values)) + data
    return _I32.pack(value_type) + data
