"""Weights on the device, and the way there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Self

import numpy as np
import torch

from trivet import _native
from trivet.graph.ops import Weight
from trivet.runtime.cuda.device import Device
from trivet.runtime.cuda.kernels import gated
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import FORMATS
from trivet.runtime.weights import WeightReader
from trivet.weights.formats import Format
from trivet.weights.mapped import release_pages
from trivet.weights.tensor import Tensor

CHUNK = 32 << 20
"""Bytes of a pinned buffer: enough that starting a copy costs nothing."""

COPIERS = min(4, os.cpu_count() or 1)
"""Threads that fill one: a single one does not read the page cache as fast as a device can be written."""

DENSE = {Format.F32: torch.float32, Format.F16: torch.float16, Format.BF16: torch.bfloat16}


class DeviceWeights:
    """Matrices and vectors of a model by their place in its graph.

    Dense matrices are kept in `dtype`, but float16 as it is where bfloat16 would change a value; GGUF blocks as they
    are where there are kernels for their format, else as `dtype` too. Vectors are float32. All is loaded within its
    context, whose end waits for the copies.
    """

    def __init__(self, reader: WeightReader, device: Device, dtype: torch.dtype) -> None:
        self.num_bytes = 0
        self._reader = reader
        self._device = device
        self._dtype = dtype
        self._upload = Upload(device)
        self._matrices: dict[tuple[Weight, ...], Matrix] = {}
        self._gated: dict[tuple[Weight, Weight], Matrix] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._upload.end()

    def matrix(self, *weights: Weight) -> Matrix:
        """One or more of the same storage (see `groups`), row under row. The same object for the same weights."""
        if weights not in self._matrices:
            self._matrices[weights] = self._load(weights)
        return self._matrices[weights]

    def gated(self, gate: Weight, up: Weight) -> Matrix | None:
        """Both as kernels/gated.py wants them; None where it does not take them."""
        both, (rows, columns) = (gate, up), gate.shape
        if any(self._format(w) for w in both) or not gated.usable(rows, columns, self._dtype, self._device.place):
            return None
        if both not in self._gated:
            values = self._load(both).values
            assert isinstance(values, torch.Tensor)
            self._gated[both] = Matrix(gated.interleaved(values))
        return self._gated[both]

    @property
    def products(self) -> list[Matrix]:
        """All that are no stacks of experts."""
        matrices = (*self._matrices.values(), *self._gated.values())
        return [matrix for matrix in matrices if len(matrix.shape) == 2]

    def groups(self, weights: Sequence[Weight]) -> list[tuple[Weight, ...]]:
        """Neighbours that can be one matrix."""
        return [tuple(group) for _, group in groupby(weights, self._format)]

    def vector(self, weight: Weight) -> torch.Tensor:
        """Float32, of the weight's shape."""
        return self.values(self._reader.floats(weight).reshape(weight.shape))

    def values(self, values: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A copy as `dtype`."""
        self.num_bytes += dtype.itemsize * values.size
        return torch.tensor(values, dtype=dtype, device=self._device.place)

    def scale(self, weight: Weight) -> float:
        """The factor of a matrix."""
        scales = self._reader.scales(weight)
        return 1.0 if scales is None else float(scales[0])

    def _format(self, weight: Weight) -> Format | None:
        """What a matrix is kept in as it is; None is `dtype`."""
        fmt = self._reader.tensor(weight).info.format
        kept = fmt in FORMATS or (fmt is Format.F16 and self._dtype is torch.bfloat16)
        return fmt if kept and self._reader.scales(weight) is None else None

    def _load(self, weights: tuple[Weight, ...]) -> Matrix:
        *stack, _, columns = weights[0].shape
        rows = sum(weight.shape[-2] for weight in weights)
        fmt = self._format(weights[0])
        blocks = fmt if fmt in FORMATS else None
        if blocks is not None:
            dtype, width = torch.uint8, blocks.row_bytes(columns)
        else:
            dtype, width = self._dtype if fmt is None else DENSE[fmt], columns
        data = torch.empty((*stack, rows, width), dtype=dtype, device=self._device.place)
        start = 0
        for weight in weights:
            part = data[..., start : start + weight.shape[-2], :]
            start += weight.shape[-2]
            tensor = self._reader.tensor(weight)
            if blocks is None:
                self._dense(tensor, self._reader.scales(weight), part)
            else:
                self._upload.send(tensor.data, part)
            release_pages(tensor.data)
            self._reader.report(tensor)
        if fmt is Format.F16:
            data = _in_bfloat16(data)
        matrix = Matrix(data) if blocks is None else Matrix.packed(data, blocks)
        self.num_bytes += matrix.num_bytes
        return matrix

    def _dense(self, tensor: Tensor, scales: np.ndarray | None, target: torch.Tensor) -> None:
        fmt, columns = tensor.info.format, tensor.info.shape[-1]
        if fmt in DENSE:
            self._upload.send(tensor.data, target, DENSE[fmt])
        else:
            step = max(1, CHUNK // (4 * columns))
            for part, place in _pairs(tensor.data, target):
                blocks, lines = part.reshape(-1, part.shape[-1]), place.reshape(-1, columns)
                for row in range(0, len(blocks), step):
                    some = blocks[row : row + step]
                    values = _native.dequantize(fmt.type_id, some.reshape(-1), len(some) * columns)
                    self._upload.send(values.view(np.uint8), lines[row : row + step], torch.float32)
        if scales is not None:
            target *= torch.tensor(scales, device=self._device.place).view(-1, *[1] * (target.ndim - 1)).to(target)


class Upload:
    """Copies bytes of mapped files to the device: threads fill one pinned buffer while the other is being sent."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers = [(device.pinned_bytes(CHUNK), device.event()) for _ in range(2)]
        self._staging: torch.Tensor | None = None
        self._turn = 0
        self._copiers = ThreadPoolExecutor(COPIERS, "weights")

    def send(self, source: np.ndarray, target: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        """Bytes of as many values of `dtype` (None: the target's own), converted to the target's."""
        dtype = dtype or target.dtype
        for part, place in _pairs(source, target):
            line, values = part.reshape(-1), place.view(-1)
            for start in range(0, line.size, CHUNK):
                chunk = line[start : start + CHUNK]
                first = start // dtype.itemsize
                self._send(chunk, values[first : first + chunk.size // dtype.itemsize], dtype)

    def end(self) -> None:
        self._copiers.shutdown()
        self._device.synchronize()
        self._buffers, self._staging = [], None

    def _send(self, chunk: np.ndarray, target: torch.Tensor, dtype: torch.dtype) -> None:
        self._turn = 1 - self._turn
        buffer, sent = self._buffers[self._turn]
        sent.synchronize()
        host = buffer.numpy()[: chunk.size]
        share = -(-chunk.size // COPIERS)
        starts = range(0, chunk.size, share)
        list(self._copiers.map(lambda at: np.copyto(host[at : at + share], chunk[at : at + share]), starts))
        if dtype == target.dtype:
            target.view(torch.uint8).copy_(buffer[: chunk.size], non_blocking=True)
        else:
            if self._staging is None:
                self._staging = torch.empty(CHUNK, dtype=torch.uint8, device=self._device.place)
            staged = self._staging[: chunk.size]
            staged.copy_(buffer[: chunk.size], non_blocking=True)
            target.copy_(staged.view(dtype))
        sent.record()


def _in_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """float16 as bfloat16, in the same memory, if no value changes by that: a model that was trained in bfloat16."""
    pieces = values.view(-1).split(CHUNK // 2)
    if not all(bool((piece.bfloat16() == piece).all()) for piece in pieces):
        return values
    for piece in pieces:
        piece.view(torch.bfloat16).copy_(piece.bfloat16())
    return values.view(torch.bfloat16)


def _pairs(source: np.ndarray, target: torch.Tensor) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Corresponding parts, both contiguous."""
    if source.flags.c_contiguous and target.is_contiguous():
        yield source, target
    else:
        for part, place in zip(source, target, strict=True):
            yield from _pairs(part, place)
