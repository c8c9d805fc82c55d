"""Products with dense weights on Hopper, whose tiles its copy engine (TMA) fetches.

One thread asks for a tile by its place in a matrix that a descriptor describes; so the loop has no addresses and no
masks, and what lies outside of a matrix counts as zero. The instructions of products and their order along K are those
of tiles.py, and so are the bits.

Measured on an H200, the tiles below take 1 to 5 % longer than cuBLAS for thousands of rows of Llama 3.1 8B's matrices,
where tiles fetched through pointers take 20 to 45 %, and as long as cuBLAS for one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from trivet.runtime.cuda.kernels import device
from trivet.runtime.cuda.kernels.activation import activated


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of a program: rows of weights, tokens, columns at a time; its warps and the depth of its pipeline."""

    rows: int
    tokens: int
    columns: int
    warps: int
    stages: int

    def count(self, rows: int, tokens: int) -> int:
        """Of programs for all of a product."""
        return triton.cdiv(rows, self.rows) * triton.cdiv(tokens, self.tokens)


# Measured on an H200 with the matrices of Llama 3.1 8B. A multiprocessor has 227 KB for stages of
# 2 (rows + tokens) columns bytes: one program of many, or two of few, whose beginnings and ends then overlap.
ONE_WARP_GROUP = {16: Tile(64, 16, 256, 4, 5), 32: Tile(64, 32, 128, 4, 7), 64: Tile(64, 64, 128, 4, 6)}
"""Up to so many tokens: bound by memory."""
TWO_PROGRAMS = Tile(64, 64, 128, 4, 3)
LARGEST = (Tile(128, 256, 64, 8, 4), Tile(128, 128, 64, 8, 6), Tile(64, 128, 128, 4, 4), Tile(64, 64, 64, 4, 6))
"""Larger tiles read less from L2 and shared memory for each operation, as long as they are enough for the chip. 128 x
256 takes 128 registers of each thread for its sums."""
FEWER_STAGES = Tile(128, 128, 64, 8, 3)
"""In place of the second of them where programs are more than multiprocessors: two then share one."""
TWO_SUMS = (Tile(128, 128, 64, 8, 4), *LARGEST[2:])
"""Those with registers for the sums of a part of K beside those of the parts before it."""
PERSISTENT = Tile(256, 128, 64, 8, 3)
"""Of a program that takes one tile after the other: the loads of the next one begin before this one is stored."""
PERSISTENT_TILES = 4
"""That each program has at least, on average."""


def multiplies(dtype: torch.dtype, place: torch.device) -> bool:
    """Whether this is how rows of `dtype` are multiplied with weights of the same type, where those are `aligned`."""
    return device.capability(place) // 10 == 9 and dtype in (torch.bfloat16, torch.float16)


def usable(weights: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether this is how rows of `dtype` are multiplied with weights [N, K], however many they are."""
    return multiplies(dtype, weights.device) and weights.dtype == dtype and aligned(weights)


def aligned(matrix: torch.Tensor) -> bool:
    """As the copy engine wants it."""
    return matrix.stride(1) == 1 and matrix.stride(0) % 8 == 0 and matrix.data_ptr() % 16 == 0


def tile(rows: int, tokens: int, parts: int, place: torch.device) -> Tile:
    """No result depends on it."""
    multiprocessors = device.multiprocessors(place)
    for most, chosen in ONE_WARP_GROUP.items():
        if tokens <= most:
            two = most == 64 and chosen.count(rows, tokens) > 2 * multiprocessors
            return TWO_PROGRAMS if two else chosen
    if parts == 1 and PERSISTENT.count(rows, tokens) >= PERSISTENT_TILES * multiprocessors:
        return PERSISTENT
    some = TWO_SUMS if parts > 1 else LARGEST if tokens > 128 else LARGEST[1:]
    chosen = next((t for t in some if t.count(rows, tokens) >= 0.7 * multiprocessors), some[-1])
    return FEWER_STAGES if chosen is LARGEST[1] and chosen.count(rows, tokens) > multiprocessors else chosen


def steady_tokens(place: torch.device) -> int:
    """Of so many tokens and more, all products with the same weights have the same `tile`: even weights of few rows are
    enough tiles for the chip."""
    return PERSISTENT_TILES * device.multiprocessors(place) * PERSISTENT.tokens


def bulk_product(
    x: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    t: Tile,
    parts: int,
    part_columns: int,
    act: str | None = None,
) -> None:
    """y [T, N] = x [T, K] W^T + b, where `usable`; rows of x and y may be at any distance. The sums of `parts` parts of
    K, of so many columns each (a multiple of 256), are added in order. With `act`, y [T, N / 2] is what gated.py says.
    """
    if t is PERSISTENT and not (y.element_size() == 2 and aligned(y)):
        t = LARGEST[0]  # A tile of results of 32 bits does not fit beside the stages.
    if not aligned(x):
        x = x.clone(memory_format=torch.contiguous_format)
    (tokens, columns), rows = x.shape, len(weights)
    blocks = (
        TensorDescriptor.from_tensor(x, [t.tokens, t.columns]),
        TensorDescriptor.from_tensor(weights, [t.rows, t.columns]),
    )
    sizes = {"BN": t.rows, "BT": t.tokens, "BK": t.columns, "num_warps": t.warps, "num_stages": t.stages}
    if t is PERSISTENT:
        target = TensorDescriptor.from_tensor(y, [t.tokens, t.rows // 2 if act else t.rows])
        programs = min(device.multiprocessors(x.device), t.count(rows, tokens))
        persistent_kernel[(programs,)](*blocks, bias, target, tokens, rows, columns, ACT=act, **sizes)
    else:
        bulk_kernel[(t.count(rows, tokens),)](
            *blocks,
            bias,
            y,
            tokens,
            rows,
            columns,
            y.stride(0),
            part_columns,
            PARTS=parts,
            ACT=act,
            **sizes,
            **device.early(x.device),
        )


@triton.jit
def place(tile, rows, tokens, BN: tl.constexpr, BT: tl.constexpr):
    """The first row and token of a tile. Of groups of 8 tiles of rows all tokens come before the next group: what runs
    at a time shares operands in L2."""
    GROUP: tl.constexpr = 8
    row_tiles, token_tiles = tl.cdiv(rows, BN), tl.cdiv(tokens, BT)
    group = tile // (GROUP * token_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    inside = tile % (GROUP * token_tiles)
    return (group * GROUP + inside % height) * BN, (inside // height) * BT


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
    part_columns,
    PARTS: tl.constexpr,
    ACT: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A tile of y, from descriptors of x, in blocks [BT, BK], and of the weights, in blocks [BN, BK]."""
    device.await_previous(EARLY)
    first_row, first_token = place(tl.program_id(0), rows, tokens, BN, BT)
    sums = tl.zeros((BN, BT), tl.float32)
    if PARTS == 1:
        for column in range(0, columns, BK):
            sums = tl.dot(weights.load([first_row, column]), x.load([first_token, column]).T, sums)
    else:
        for part in tl.range(PARTS, flatten=True):
            added = tl.zeros((BN, BT), tl.float32)
            for column in range(part * part_columns, tl.minimum((part + 1) * part_columns, columns), BK):
                added = tl.dot(weights.load([first_row, column]), x.load([first_token, column]).T, added)
            sums += added
    if ACT is not None:
        gate, up = tl.split(tl.permute(tl.reshape(sums, (BN // 16, 2, 8, BT)), (0, 2, 3, 1)))
        sums = tl.reshape(activated(gate, ACT) * up, (BN // 2, BT))
        first_row //= 2
        rows //= 2
    sums = sums.T
    row = first_row + tl.arange(0, sums.shape[1])
    token = first_token + tl.arange(0, BT)
    kept = row < rows
    if bias is not None:
        sums += tl.load(bias + row, mask=kept, other=0).to(tl.float32)[None, :]
    at = y + token.to(tl.int64)[:, None] * y_stride + row[None, :]
    tl.store(at, sums.to(y.dtype.element_ty), mask=kept[None, :] & (token < tokens)[:, None])


@triton.jit(do_not_specialize=["tokens"])
def persistent_kernel(
    x,
    weights,
    bias,
    y,
    tokens,
    rows,
    columns,
    ACT: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """Tiles of y, a descriptor of blocks [BT, BN] (with `ACT`, [BT, BN / 2]). Tokens are the left operand, of which the
    instruction takes 64 rows: an element's bits are the same."""
    tiles = tl.cdiv(rows, BN) * tl.cdiv(tokens, BT)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        first_row, first_token = place(tile, rows, tokens, BN, BT)
        sums = tl.zeros((BT, BN), tl.float32)
        for column in range(0, columns, BK):
            sums = tl.dot(x.load([first_token, column]), weights.load([first_row, column]).T, sums)
        if bias is not None:
            row = first_row + tl.arange(0, BN)
            sums += tl.load(bias + row, mask=row < rows, other=0).to(tl.float32)[None, :]
        if ACT is not None:
            gate, up = tl.split(tl.permute(tl.reshape(sums, (BT, BN // 16, 2, 8)), (0, 1, 3, 2)))
            sums = tl.reshape(activated(gate, ACT) * up, (BT, BN // 2))
            first_row //= 2
        y.store([first_token, first_row], sums.to(y.dtype))
