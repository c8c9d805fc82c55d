"""Weights on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trivet.runtime.cuda.kernels.quantized.blocks import Blocks, pack
from trivet.weights.formats import Format


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights [N, K], or a stack of experts [E, N, K]: a contiguous tensor, or the blocks of a quantised format."""

    values: torch.Tensor | Blocks

    @staticmethod
    def packed(data: torch.Tensor, fmt: Format) -> Matrix:
        """From GGUF's own rows, uint8 [..., N, row bytes], in one of quantized.blocks.FORMATS."""
        return Matrix(pack(data, fmt))

    @property
    def shape(self) -> tuple[int, ...]:
        if isinstance(self.values, torch.Tensor):
            return tuple(self.values.shape)
        return *self.values.quants.shape[:-1], self.values.rows, self.values.columns

    @property
    def rows(self) -> int:
        return self.shape[-2]

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes if isinstance(self.values, torch.Tensor) else self.values.num_bytes

    @property
    def format(self) -> str:
        """What kernels call it: the name of a quantised format, or "dense"."""
        return "dense" if isinstance(self.values, torch.Tensor) else self.values.format.name

    @property
    def planes(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """What kernels read: (values, high, header)."""
        if isinstance(self.values, torch.Tensor):
            return self.values, None, None
        return self.values.quants, self.values.high, self.values.header
