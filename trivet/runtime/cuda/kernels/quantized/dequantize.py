"""Dequantises rows of packed blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.quantized.blocks import UNIT, Blocks
from trivet.runtime.cuda.kernels.quantized.unpack import lanes, unpack, unpack_tail

ROWS = 32
"""Of a program: with 32 columns of each, four warps store 8 values a thread at a time."""


def dequantize(blocks: Blocks, dtype: torch.dtype, begin: int = 0, end: int | None = None) -> torch.Tensor:
    """Rows `begin:end` as `dtype` [rows, columns]. In float32 they are what GGUF's formulas give."""
    end = blocks.rows if end is None else min(end, blocks.rows)
    out = torch.empty(end - begin, blocks.columns, dtype=dtype, device=blocks.quants.device)
    grid = (triton.cdiv(end - begin, ROWS), triton.cdiv(blocks.columns, UNIT))
    dequantize_kernel[grid](
        blocks.quants,
        blocks.high,
        blocks.header,
        out,
        begin,
        end,
        blocks.rows,
        blocks.columns,
        FORMAT=blocks.format.name,
        EVEN=blocks.columns % UNIT == 0,
        ROWS=ROWS,
        num_warps=4,
    )
    return out


@triton.jit
def dequantize_kernel(
    quants,
    high,
    header,
    out,
    begin,
    end,
    rows,
    columns,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(1)
    n = tl.minimum(begin + row, end - 1)
    LANES: tl.constexpr = lanes(FORMAT)
    kept = (begin + row < end)[:, None]
    at = out + row.to(tl.int64)[:, None] * columns + unit * 256
    if EVEN or unit < columns // 256:
        for i in tl.static_range(256 // LANES):
            values = unpack(quants, high, header, unit, n, rows, i, FORMAT)
            tl.store(at + i * LANES + tl.arange(0, LANES)[None, :], values.to(out.dtype.element_ty), mask=kept)
    else:
        for run in range(columns % 256 // 32):
            values = unpack_tail(quants, high, header, unit, run, n, rows, FORMAT)
            tl.store(at + run * 32 + tl.arange(0, 32)[None, :], values.to(out.dtype.element_ty), mask=kept)
