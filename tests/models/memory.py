"""Checkpoints without a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.tensor import Tensor, TensorInfo

FORMATS = {np.dtype(np.float32): Format.F32, np.dtype(np.float16): Format.F16, np.dtype(np.uint16): Format.BF16}


class MemoryCheckpoint:
    """A Checkpoint and a SafetensorsFolder in one; uint16 arrays are bfloat16."""

    path = "memory"

    def __init__(self, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.metadata = self.config = metadata
        self.arrays = arrays
        self.tensors = {name: TensorInfo(name, a.shape, FORMATS[a.dtype]) for name, a in arrays.items()}

    def load(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise ModelError(f"{self.path}: tensor {name} is missing")
        return Tensor(self.tensors[name], np.ascontiguousarray(self.arrays[name]).view(np.uint8))
