"""What a model file holds, whatever its container: named tensors in GGUF's formats, and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trivet.errors import ModelError
from trivet.weights.formats import Format


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`shape` is row-major with the contiguous dimension last (`[out, in]` for a matrix; GGUF stores it reversed)."""

    name: str
    shape: tuple[int, ...]
    format: Format

    @property
    def num_bytes(self) -> int:
        return self.format.num_bytes(self.shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` holds the blocks of `info.format` as uint8 `[..., bytes per row]`; usually a view of a mapped file."""

    info: TensorInfo
    data: np.ndarray


def to_float32(tensor: Tensor) -> np.ndarray:
    """The values of an F32, F16 or BF16 tensor, `[..., columns]`. Raises ModelError for other formats."""
    fmt, data = tensor.info.format, tensor.data
    if fmt is Format.F32:
        return data.view(np.float32)
    if fmt is Format.F16:
        return data.view(np.float16).astype(np.float32)
    if fmt is Format.BF16:
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise ModelError(f"tensor {tensor.info.name!r} is {fmt.name}; only F32, F16 and BF16 can be converted")


class Checkpoint(Protocol):
    """A model on disk. Tensor names and layouts are GGUF's, also where a Hugging Face folder is underneath."""

    path: str
    """The file or folder, as the user named it after resolution."""
    metadata: Mapping[str, Any]
    """A GGUF's key-value pairs, or a folder's `config.json`."""
    tensors: Mapping[str, TensorInfo]

    def load(self, name: str) -> Tensor:
        """Map (or build, where layouts differ) one tensor. Raises ModelError when it is missing or damaged."""
        ...
