"""Reading GGUF, versions 2 and 3: memory-mapped, in one file or in splits.

A file is: magic, version, counts, metadata (key, type, value), tensor infos (name, dimensions, format, offset),
padding to `general.alignment`, the tensors' data. All numbers are little-endian.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.gguf_values import Cursor, Metadata, ValueType
from trivet.weights.mapped import MappedFile
from trivet.weights.tensor import Tensor, TensorInfo

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_SPLITS = 65535
MAX_NAME_BYTES = 65535
"""Of a metadata key, by the specification; of a tensor too, though llama.cpp reads only up to 63."""

_FORMATS = {fmt.type_id: fmt for fmt in Format}
_SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_INFO_BYTES = 8 + 4 + 4 + 8


class GGUFFile:
    """A GGUF model as a Checkpoint; tensors are read-only views of the mapped file.

    path: the file; of a model in splits, the first.
    metadata: bools, numbers, strings, and lists of one of these; the `split.*` keys are left out.
    types: for each key the type of its value, or of its list's elements.
    tensors: those of all splits, in the order of the files.

    Raises ModelError when a file is damaged, incomplete, big-endian or of an unknown version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        first = _Part(self.path)
        parts = [first, *_other_splits(first)]
        self.metadata: Mapping[str, Any] = first.metadata.without(_SPLIT_KEYS)
        self.types: Mapping[str, ValueType] = {k: first.types[k] for k in self.metadata}
        tensors: dict[str, TensorInfo] = {}
        self._data: dict[str, np.ndarray] = {}
        for part in parts:
            for info, data in part.tensors:
                if info.name in tensors:
                    raise ModelError(f"{part.path}: tensor {info.name!r} is in the model twice")
                tensors[info.name], self._data[info.name] = info, data
        self.tensors: Mapping[str, TensorInfo] = tensors
        total = first.metadata.get("split.tensors.count", len(tensors))
        if total != len(tensors):
            raise ModelError(
                f"{self.path}: split.tensors.count is {total!r}, but the files hold {len(tensors)} tensors"
            )

    def load(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"{self.path}: there is no tensor {name!r} among the {len(self.tensors)} of this model")
        info = self.tensors[name]
        return Tensor(info, self._data[name].reshape(*info.shape[:-1], info.format.row_bytes(info.shape[-1])))


def split_of(path: str | Path) -> tuple[str, int, int] | None:
    """Of a file named as a split of a model: the names' common prefix, the split's number from 1, and their count."""
    match = _SPLIT_NAME.fullmatch(str(path))
    return (match[1], int(match[2]), int(match[3])) if match else None


class _Part:
    """One file of a model: its metadata, and its tensors with their bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        mapped = _map(path)
        cursor = Cursor(memoryview(mapped), path)
        tensor_count, key_count = _read_header(mapped, cursor)
        values: dict[str, Any] = {}
        self.metadata = Metadata(values)
        self.types: dict[str, ValueType] = {}
        for i in range(key_count):
            key = cursor.string(f"the name of metadata key {i} of {key_count}", MAX_NAME_BYTES)
            if not key or key in values:
                raise cursor.error(f"metadata key {key!r} is there twice" if key else f"metadata key {i} has no name")
            values[key], self.types[key] = cursor.value(f"metadata key {key!r}")
        alignment = self._alignment(cursor)
        infos = [_read_info(cursor, f"tensor {i} of {tensor_count}") for i in range(tensor_count)]

        data = np.frombuffer(mapped, np.uint8)
        start = base = _align(cursor.position, alignment)
        self.tensors: list[tuple[TensorInfo, np.ndarray]] = []
        for info, offset in infos:
            if base + offset != start:
                raise cursor.error(
                    f"tensor {info.name!r} is said to start at {offset}; "
                    f"after the tensors before it, it must be at {start - base}"
                )
            end = start + info.num_bytes
            if end > data.size:
                raise cursor.error(
                    f"tensor {info.name!r} ends at byte {end}, but the file has only {data.size} "
                    "(it is truncated or damaged)"
                )
            self.tensors.append((info, data[start:end]))
            start = _align(end, alignment)

    def _alignment(self, cursor: Cursor) -> int:
        value = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(value) is not int or value < 8 or value & (value - 1):
            raise cursor.error(f"general.alignment is {value!r}; it must be a power of two of at least 8")
        return value


def _map(path: str) -> MappedFile:
    try:
        if not Path(path).is_file():
            raise ModelError(f"{path}: {'not a regular file' if Path(path).exists() else 'no such file'}")
        return MappedFile(Path(path))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: cannot be mapped into memory: {e}") from None


def _read_header(mapped: mmap.mmap, cursor: Cursor) -> tuple[int, int]:
    """Check magic and version; returns the numbers of tensors and of metadata keys."""
    magic = mapped[cursor.take(len(MAGIC), "the magic") : cursor.position]
    if magic != MAGIC:
        raise cursor.error(f"not a GGUF file: it starts with {magic!r}, not {MAGIC!r}")
    version = cursor.scalar(ValueType.UINT32, "the version")
    if version & 0xFFFF == 0 and version:
        raise cursor.error("this is a big-endian GGUF file; convert it to little-endian")
    if version not in (2, 3):
        raise cursor.error(f"GGUF version {version} is not supported; versions 2 and 3 are")
    tensors = cursor.scalar(ValueType.UINT64, "the number of tensors")
    keys = cursor.scalar(ValueType.UINT64, "the number of metadata keys")
    if tensors * _MIN_INFO_BYTES + keys * _MIN_KEY_BYTES > cursor.remaining:
        raise cursor.error(
            f"claims {tensors} tensors and {keys} metadata keys, but only {cursor.remaining} bytes follow"
        )
    return tensors, keys


def _read_info(cursor: Cursor, what: str) -> tuple[TensorInfo, int]:
    """A tensor's description, and its offset from the start of the data."""
    name = cursor.string(f"the name of {what}", MAX_NAME_BYTES)
    what = f"tensor {name!r}"
    dimensions = cursor.scalar(ValueType.UINT32, f"the number of dimensions of {what}")
    if dimensions > MAX_DIMENSIONS:
        raise cursor.error(f"{what} has {dimensions} dimensions; at most {MAX_DIMENSIONS} are supported")
    shape = tuple(cursor.scalar(ValueType.INT64, f"the shape of {what}") for _ in range(dimensions))[::-1] or (1,)
    type_id = cursor.scalar(ValueType.UINT32, f"the format of {what}")
    if type_id not in _FORMATS:
        raise cursor.error(f"{what} has the unknown format {type_id}; known are {min(_FORMATS)} to {max(_FORMATS)}")
    info = TensorInfo(name, shape, _FORMATS[type_id])
    if min(shape) < 1:
        raise cursor.error(f"{what} has the shape {list(shape)}; every dimension must be at least 1")
    if shape[-1] % info.format.block_size:
        raise cursor.error(
            f"{what} has rows of {shape[-1]} values, not a multiple of {info.format.name}'s "
            f"block of {info.format.block_size}"
        )
    return info, cursor.scalar(ValueType.UINT64, f"the offset of {what}")


def _other_splits(first: _Part) -> list[_Part]:
    """The splits after the first, which is named `<prefix>-00001-of-<count>.gguf`; none for a model in one file."""
    count, number = first.metadata.get("split.count", 1), first.metadata.get("split.no", 0)
    if type(count) is not int or type(number) is not int or not 0 <= number < max(count, 1) <= MAX_SPLITS:
        raise ModelError(f"{first.path}: split.no is {number!r} and split.count {count!r}, which cannot be")
    if count < 2:
        return []
    split = split_of(first.path)
    if split is None or split[1:] != (number + 1, count):
        raise ModelError(
            f"{first.path}: this is split {number + 1} of {count}, so its name must end in "
            f"-{number + 1:05}-of-{count:05}.gguf for the others to be found"
        )
    names = [f"{split[0]}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    if number != 0:
        raise ModelError(f"{first.path}: this is split {number + 1} of {count}; name the first, {names[0]}")
    missing = [name for name in names if not Path(name).is_file()]
    if missing:
        raise ModelError(f"{first.path}: {len(missing)} of {count} splits are missing, first {missing[0]}")
    parts = []
    for i, name in enumerate(names[1:], 1):
        part = _Part(name)
        found = (part.metadata.get("split.no"), part.metadata.get("split.count"))
        if found != (i, count):
            raise ModelError(
                f"{name}: its split.no and split.count are {found}; as part of {names[0]} they must be {(i, count)}"
            )
        parts.append(part)
    return parts


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
