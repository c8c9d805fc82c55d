"""Products with dense weights on Hopper, whose tiles its copy engine (TMA) fetches.

One thread asks for a tile by its place in a matrix that a descriptor describes; so the loop has no addresses and no
masks, and what lies outside of a matrix counts as zero. The instructions of products and their order along K are those
of tiles.py, and so are the bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from trivet.runtime.cuda.kernels import device

PROGRAMS = 128
"""How many programs a product should have at least: about one for each multiprocessor (132)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of weights, tokens, columns at a time; warps and the depth of the pipeline; whether tokens are the left
    operand, of which the instruction takes 64 rows or more: so rows of weights may be fewer."""

    rows: int
    tokens: int
    columns: int
    warps: int
    stages: int
    swapped: bool = False


FEW = (Tile(128, 16, 128, 4, 5), Tile(64, 16, 128, 4, 5), Tile(32, 64, 128, 4, 4, swapped=True))
"""Up to 16 tokens: a stage's weights are 8 to 32 KB, and all stages of the programs of a multiprocessor 60 KB or more.
Of several tiles the first is taken that makes PROGRAMS programs, or else the last."""

SOME = (Tile(128, 64, 64, 8, 4), Tile(64, 64, 128, 4, 3))
"""Up to 64: tokens come from L2 once for every tile, 64 of them with as many bytes as 64 rows of weights."""

MANY = (Tile(128, 256, 64, 8, 4), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 4), Tile(64, 64, 64, 4, 6))
"""Larger tiles read less from L2 and shared memory for each operation. 128 x 256 takes 128 registers of each thread for
its sums."""


def usable(x: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether weights [N, K] are such that this is how they are multiplied; for all numbers of rows of x alike."""
    return (
        device.capability(x.device) // 10 == 9
        and weights.dtype == x.dtype
        and x.dtype in (torch.bfloat16, torch.float16)
        and aligned(weights)
    )


def aligned(matrix: torch.Tensor) -> bool:
    """As the copy engine wants it."""
    return matrix.stride(1) == 1 and matrix.stride(0) % 8 == 0 and matrix.data_ptr() % 16 == 0


def tile(rows: int, tokens: int) -> Tile:
    """No result depends on it."""
    tiles = FEW if tokens <= 16 else SOME if tokens <= 64 else MANY
    enough = (t for t in tiles if triton.cdiv(rows, t.rows) * triton.cdiv(tokens, t.tokens) >= PROGRAMS)
    return next(enough, tiles[-1])


def bulk_product(x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> None:
    """y [T, N] = x [T, K] W^T + b, where `usable`; rows of x and y may be at any distance."""
    if not aligned(x):
        x = x.clone(memory_format=torch.contiguous_format)
    tokens, columns = x.shape
    rows = len(weights)
    t = tile(rows, tokens)
    bulk_kernel[(triton.cdiv(rows, t.rows) * triton.cdiv(tokens, t.tokens),)](
        TensorDescriptor.from_tensor(x, [t.tokens, t.columns]),
        TensorDescriptor.from_tensor(weights, [t.rows, t.columns]),
        bias,
        y,
        tokens,
        rows,
        columns,
        y.stride(0),
        SWAPPED=t.swapped,
        BN=t.rows,
        BT=t.tokens,
        BK=t.columns,
        num_warps=t.warps,
        num_stages=t.stages,
    )


@triton.jit(do_not_specialize=["tokens"])
def bulk_kernel(
    x,
    weights,
    bias,
    y,
    tokens,
    rows,
    columns,
    y_stride,
    SWAPPED: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """A tile of y, from descriptors of x, in blocks [BT, BK], and of the weights, in blocks [BN, BK]."""
    # Groups of 8 tiles of rows, all tokens of a group before the next one: what runs at a time shares operands in L2.
    GROUP: tl.constexpr = 8
    row_tiles, token_tiles = tl.cdiv(rows, BN), tl.cdiv(tokens, BT)
    program = tl.program_id(0)
    group = program // (GROUP * token_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    inside = program % (GROUP * token_tiles)
    first_row = (group * GROUP + inside % height) * BN
    first_token = (inside // height) * BT

    sums = tl.zeros((BT, BN) if SWAPPED else (BN, BT), tl.float32)
    for column in range(0, columns, BK):
        w = weights.load([first_row, column])
        xt = x.load([first_token, column])
        sums = tl.dot(xt, w.T, sums) if SWAPPED else tl.dot(w, xt.T, sums)
    if not SWAPPED:
        sums = sums.T
    row = first_row + tl.arange(0, BN)
    token = first_token + tl.arange(0, BT)
    kept = row < rows
    if bias is not None:
        sums += tl.load(bias + row, mask=kept, other=0).to(tl.float32)[None, :]
    at = y + token.to(tl.int64)[:, None] * y_stride + row[None, :]
    tl.store(at, sums.to(y.dtype.element_ty), mask=kept[None, :] & (token < tokens)[:, None])
