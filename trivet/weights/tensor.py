"""What a model file holds, whatever its container: named tensors in GGUF's formats, and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
