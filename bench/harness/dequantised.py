"""A model's weights as they are in its file, in F32: the same function, without quantised arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trivet import _native
from trivet.weights import open_checkpoint
from trivet.weights.export import export
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint, Tensor, TensorInfo


class Dequantised:
    """A Checkpoint."""

    def __init__(self, source: Checkpoint) -> None:
        self.source = source
        self.path = source.path
        self.metadata: Mapping[str, Any] = source.metadata
        self.tensors: dict[str, TensorInfo] = {
            name: replace(info, format=Format.F32) for name, info in source.tensors.items()
        }

    def load(self, name: str) -> Tensor:
        info = self.tensors[name]
        tensor = self.source.load(name)
        blocks = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        values = _native.dequantize(tensor.info.format.type_id, blocks, int(np.prod(info.shape)))
        return Tensor(info, values.reshape(info.shape).view(np.uint8))


def dequantise(source: Path, target: Path) -> None:
    export(Dequantised(open_checkpoint(str(source))), target, "F32")
