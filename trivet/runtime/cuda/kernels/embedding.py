"""Rows of a table of embeddings."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import UNIT
from trivet.runtime.cuda.kernels.quantized.unpack import lanes, unpack, unpack_tail


def embed(token_ids: torch.Tensor, table: Matrix, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The rows `token_ids` (int32 [T]) of `table` times `scale`, as `dtype` [T, width]; zeros for ids it has not."""
    rows, width = table.shape
    y = torch.empty(len(token_ids), width, dtype=dtype, device=token_ids.device)
    block = 1024 if table.format == "dense" else 256
    embed_kernel[(len(token_ids), triton.cdiv(width, block))](
        token_ids,
        *table.planes,
        y,
        rows,
        width,
        scale,
        FORMAT=table.format,
        EVEN=width % UNIT == 0,
        BLOCK=block,
        num_warps=4 if block > 256 else 1,
    )
    return y


@triton.jit
def embed_kernel(
    token_ids,
    values,
    high,
    header,
    y,
    rows,
    width,
    scale,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of columns of one row; of packed blocks, a unit."""
    token, block = tl.program_id(0), tl.program_id(1)
    row = tl.load(token_ids + token)
    known = (row >= 0) & (row < rows)
    row = tl.where(known, row, 0)
    out = y + token.to(tl.int64) * width
    if FORMAT == "dense":
        column = block * BLOCK + tl.arange(0, BLOCK)
        kept = column < width
        at = values + row.to(tl.int64) * width + column
        x = tl.load(at, mask=kept & known, other=0).to(tl.float32)
        tl.store(out + column, (x * scale).to(y.dtype.element_ty), mask=kept)
    else:
        n = row + tl.arange(0, 1)
        LANES: tl.constexpr = lanes(FORMAT)
        out += block * 256
        if EVEN or block < width // 256:
            for i in tl.static_range(256 // LANES):
                x = tl.where(known, unpack(values, high, header, block, n, rows, i, FORMAT), 0.0)
                tl.store(out + i * LANES + tl.arange(0, LANES)[None, :], (x * scale).to(y.dtype.element_ty))
        else:
            for run in range(width % 256 // 32):
                x = tl.where(known, unpack_tail(values, high, header, block, run, n, rows, FORMAT), 0.0)
                tl.store(out + run * 32 + tl.arange(0, 32)[None, :], (x * scale).to(y.dtype.element_ty))
