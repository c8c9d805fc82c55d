"""Looking for weights that are not finite: a NaN or infinite scale, or a product of scales past float32.

A scale that its standard calls NaN counts as one also where it computes as a number: in ggml, and so here, MXFP4's
0xFF is one power of two more and NVFP4's 0x7F is 0, but no one means such weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from trivet import _native
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint, Tensor, TensorInfo

_CHUNK = 1 << 20
"""Values that are looked at together."""
_NAMED = 8
"""Blocks of a tensor that are named; the others are counted."""
_ALWAYS_FINITE = {Format.I8, Format.I16, Format.I32, Format.I64}
_ACTIVATIONS = {Format.Q8_1, Format.Q8_K}
_NAN_SCALES = {Format.MXFP4: (1, 0xFF), Format.NVFP4: (4, 0x7F)}
"""How many bytes, with which a block begins, are each the scale of as many values, and the bits that make one NaN
(in E8M0, and in E4M3 whatever its sign).
"""


@dataclass(frozen=True, slots=True)
class BadBlock:
    """`block` counts from the tensor's first (in F32, F16 and BF16 a value is a block). The block's first `value` that
    is not finite ("nan", "inf", "-inf") is at `row` and `column` of the tensor as a matrix.
    """

    block: int
    row: int
    column: int
    value: str


@dataclass(slots=True)
class BadTensor:
    """A tensor with `count` blocks that are not finite, the first few of which are in `blocks`."""

    tensor: str
    format: str
    count: int = 0
    blocks: list[BadBlock] = field(default_factory=list)


def bad_tensors(
    checkpoint: Checkpoint, progress: Callable[[TensorInfo], None] = lambda info: None
) -> Iterator[BadTensor]:
    """All of a model's, in the file's order. Reads every weight; `progress` is called after each tensor.

    Raises ModelError when a tensor cannot be read.
    """
    for name, info in checkpoint.tensors.items():
        if info.format not in _ALWAYS_FINITE | _ACTIVATIONS:
            bad = _look(checkpoint.load(name))
            if bad.count:
                yield bad
        progress(info)


def _look(tensor: Tensor) -> BadTensor:
    info, columns, size = tensor.info, tensor.info.shape[-1], tensor.info.format.block_size
    found = BadTensor(info.name, info.format.name)
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, _CHUNK // max(columns, 1))
    for start in range(0, len(rows), step):
        values = _values(info.format, rows[start : start + step], columns)
        blocks = ~np.isfinite(values).reshape(-1, size)
        bad = np.flatnonzero(blocks.any(axis=1))
        found.count += len(bad)
        for i in bad[: _NAMED - len(found.blocks)].tolist():
            row, column = divmod(i * size + int(blocks[i].argmax()), columns)
            value = str(float(values[row, column]))
            found.blocks.append(BadBlock(start * columns // size + i, start + row, column, value))
    return found


def _values(fmt: Format, rows: np.ndarray, columns: int) -> np.ndarray:
    if fmt is Format.F64:
        return rows.view(np.float64)
    data = np.ascontiguousarray(rows).reshape(-1)
    values = _native.dequantize(fmt.type_id, data, len(rows) * columns)
    if fmt in _NAN_SCALES:
        count, bits = _NAN_SCALES[fmt]
        scales = data.reshape(-1, fmt.block_bytes)[:, :count]
        values.reshape(scales.size, -1)[(scales & bits == bits).ravel()] = np.nan
    return values.reshape(-1, columns)
