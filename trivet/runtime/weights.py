"""The weights that a graph names, read out of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trivet import _native
from trivet.errors import ModelError
from trivet.graph.builder import scale_name
from trivet.graph.ops import Graph, Weight
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint, Tensor

Progress = Callable[[int, int], None]
"""Called with the bytes of weights read so far, and of all."""

NOT_WEIGHTS = {Format.Q8_1, Format.Q8_K, Format.I8, Format.I16, Format.I32, Format.I64, Format.F64}
"""Of the formats of a file, those that no matrix or vector of a model is in: activations, indices."""


class WeightReader:
    """Every method raises ModelError when the weight is missing, of another shape than the graph's or of a format that
    does not compute.
    """

    def __init__(self, graph: Graph, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        self.checkpoint = checkpoint
        self._progress = progress
        weights = {w.name for op in graph.ops for w in op.weights if w.name in checkpoint.tensors}
        self.total = sum(checkpoint.tensors[name].num_bytes for name in weights)
        """Bytes of all matrices, as they are in the file."""
        self._done = 0

    def tensor(self, weight: Weight) -> Tensor:
        """The rows of `weight`, checked."""
        tensor = self.checkpoint.load(weight.name)
        info = tensor.info
        axis = max(len(info.shape) - 2, 0)
        stop = info.shape[axis] if weight.stop is None else weight.stop
        shape = (*info.shape[:axis], stop - weight.start, *info.shape[axis + 1 :])
        if shape != weight.shape or stop > info.shape[axis]:
            part = "" if weight.stop is None else f" in rows {weight.start} to {weight.stop}"
            raise ModelError(
                f"{self.checkpoint.path}: tensor {weight.name} has shape {list(info.shape)}, "
                f"expected {list(weight.shape)}{part}"
            )
        if info.format in NOT_WEIGHTS:
            names = ", ".join(f.name for f in Format if f not in NOT_WEIGHTS)
            raise ModelError(
                f"{self.checkpoint.path}: tensor {weight.name} is in format {info.format.name}, "
                f"in which weights do not compute; {names} do"
            )
        if weight.stop is None:
            return tensor
        if axis == 0 and len(info.shape) == 1:
            values = _native.dequantize(info.format.type_id, tensor.data.reshape(-1), info.shape[0])
            part_of = values[weight.start : stop].view(np.uint8)
            return Tensor(type(info)(info.name, shape, Format.F32), part_of)
        rows = (slice(None),) * axis + (slice(weight.start, stop),)
        return Tensor(type(info)(info.name, shape, info.format), tensor.data[rows])

    def floats(self, weight: Weight) -> np.ndarray:
        """The values [n] of a vector, or of a matrix row after row."""
        tensor = self.tensor(weight)
        blocks = np.ascontiguousarray(tensor.data).reshape(-1)
        self.report(tensor)
        return _native.dequantize(tensor.info.format.type_id, blocks, int(np.prod(weight.shape)))

    def scales(self, weight: Weight) -> np.ndarray | None:
        """The factor of a matrix, or of each of a stack of them; None for 1."""
        name = scale_name(weight.name)
        return self.floats(Weight(name, weight.shape[:-2] or (1,))) if name in self.checkpoint.tensors else None

    def report(self, tensor: Tensor) -> None:
        """Say that a tensor's bytes have been read."""
        self._done += tensor.info.num_bytes
        if self._progress is not None:
            self._progress(min(self._done, self.total), self.total)
