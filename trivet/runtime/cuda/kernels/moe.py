"""Mixtures of experts: every row goes through the few experts that a router gives it, without the host knowing which.

A slot is a row with one of its experts: slot t * top_k + r is row t with its r-th. Slots are sorted by expert, and cut
into tiles of up to BT slots of one expert: a list of fixed length, the rest of which says that there is nothing to do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels import device
from trivet.runtime.cuda.kernels.activation import activated
from trivet.runtime.cuda.kernels.linear import halved, linear
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import UNIT
from trivet.runtime.cuda.kernels.tiles import tile_product


def moe(
    x: torch.Tensor,
    router: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    top_k: int,
    act: str,
    normalize: bool,
    scale: float,
) -> torch.Tensor:
    """For x [T, D]: the sum over a row's `top_k` most probable experts of share * down (act(gate x) * up x).

    router [E, D]; gate, up [E, F, D]; down [E, D, F]. Shares are the softmax over all experts in float32, of the chosen
    ones made to sum to 1 where `normalize`, times `scale`; the lower index is first among equals.
    """
    tokens = len(x)
    if not tokens:
        return torch.empty_like(x)
    chosen, shares = choose(linear(x, router, dtype=torch.float32), top_k, normalize, scale)
    experts, hidden, width = gate.shape
    slots = tokens * top_k
    few = slots <= 16 * experts or x.dtype == torch.float32
    # Of gate and up a unit's 8 or 16 products each.
    packed = not all(isinstance(matrix.values, torch.Tensor) for matrix in (gate, up, down))
    few |= packed and device.has_tensor_memory(device.capability(x.device))
    block = 16 if few else 64
    order, tiles = group(chosen, experts, block)
    gated = x.new_empty(slots, hidden)
    expert_product(x, gate, gated, order, tiles, top_k, block, up=up, act=act)
    lowered = x.new_empty(slots, width)
    expert_product(gated, down, lowered, order, tiles, top_k, block)
    y = x.new_empty(tokens, width)
    grid = (tokens, triton.cdiv(width, BLOCK))
    combine_kernel[grid](lowered, shares, y, width, TOP_K=top_k, BLOCK=BLOCK, num_warps=4)
    return y


BLOCK = 512


def choose(logits: torch.Tensor, top_k: int, normalize: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(experts int32, shares float32), both [T, top_k], of logits float32 [T, E]."""
    tokens, experts = logits.shape
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    shares = logits.new_empty(tokens, top_k)
    padded = triton.next_power_of_2(experts)
    choose_kernel[(tokens,)](
        logits, chosen, shares, experts, scale, TOP_K=top_k, NORMALIZE=normalize, EXPERTS=padded, num_warps=1
    )
    return chosen, shares


def group(chosen: torch.Tensor, experts: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(order int32 [slots], tiles int32 [3, count]): the slots sorted by expert, and the list of tiles.

    A tile is (expert, begin, end), slots `order[begin:end]`; those past the last have an expert of -1. Every expert
    with slots has at most one tile that is not full, so there are at most min(slots, experts) + slots // block.
    """
    slots = chosen.numel()
    count = min(slots, experts) + slots // block
    order = torch.empty(slots, dtype=torch.int32, device=chosen.device)
    tiles = torch.empty(3, count, dtype=torch.int32, device=chosen.device)
    group_kernel[(experts,)](
        chosen,
        order,
        tiles,
        slots,
        count,
        BT=block,
        EXPERTS=max(128, triton.next_power_of_2(experts)),
        CHUNK=1024,
        num_warps=4,
    )
    return order, tiles


def expert_product(
    x: torch.Tensor,
    matrix: Matrix,
    y: torch.Tensor,
    order: torch.Tensor,
    tiles: torch.Tensor,
    top_k: int,
    block: int,
    up: Matrix | None = None,
    act: str = "",
) -> None:
    """With `up`, act(x W^T) * (x up^T) of the rows x [T, K] of slots, to y [slots, N] in the sorted order.

    Without, x W^T of x [slots, K] in the sorted order, to y [slots, N] in their own.

    Weights in blocks are always unpacked inside the product: few experts have rows enough for anything else to pay.
    """
    _, rows, columns = matrix.shape
    few = block == 16
    raised = up or matrix
    count = tiles.shape[1]
    # As the tiles of products of few rows in linear.py; two products one after the other need no more registers.
    arch = device.capability(x.device)
    rows_of_tile, warps, stages = (64, 4, 4) if few else (128, 8, 3) if device.for_data_centres(arch) else (64, 4, 2)
    if x.dtype == torch.float32 and device.has_tensor_memory(arch):
        rows_of_tile = 32
    whole = few and not halved(matrix, x.dtype) and not halved(raised, x.dtype)
    step = 32 if x.dtype == torch.float32 else 128 if whole else 64
    grid = (count * triton.cdiv(rows, rows_of_tile),)
    expert_kernel[grid](
        x,
        *matrix.planes,
        *raised.planes,
        y,
        order,
        tiles,
        count,
        rows,
        columns,
        x.stride(0),
        *strides(matrix),
        *strides(raised),
        GATED=up is not None,
        ACT=act,
        TOP_K=top_k,
        FORMAT=matrix.format,
        UP_FORMAT=raised.format,
        EVEN=columns % UNIT == 0,
        BN=rows_of_tile,
        BT=block,
        BK=step,
        num_warps=warps,
        num_stages=2 if x.dtype == torch.float32 else stages,
    )


def strides(matrix: Matrix) -> tuple[int, int, int]:
    """From one expert to the next, in each plane."""
    values, high, header = matrix.planes
    return values.stride(0), 0 if high is None else high.stride(0), 0 if header is None else header.stride(0)


@triton.jit
def choose_kernel(
    logits,
    chosen,
    shares,
    experts,
    scale,
    TOP_K: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    token = tl.program_id(0)
    index = tl.arange(0, EXPERTS)
    x = tl.load(logits + token.to(tl.int64) * experts + index, mask=index < experts, other=-float("inf"))
    p = tl.exp(x - tl.max(x, axis=0))
    p = p / tl.sum(p, axis=0)
    p = tl.where(p == p, p, 0.0)  # so that an expert is chosen though the input is NaN
    p = tl.where(index < experts, p, -1.0)
    left = p
    total = 0.0
    for rank in tl.static_range(TOP_K):
        best = tl.argmax(left, axis=0)
        share = tl.max(left, axis=0)
        total += share
        left = tl.where(index == best, -1.0, left)
        tl.store(chosen + token * TOP_K + rank, best)
    factor = scale / total if NORMALIZE else scale
    left = p
    for rank in tl.static_range(TOP_K):
        best = tl.argmax(left, axis=0)
        tl.store(shares + token * TOP_K + rank, tl.max(left, axis=0) * factor)
        left = tl.where(index == best, -1.0, left)


@triton.jit(do_not_specialize=["slots", "count"])
def group_kernel(
    chosen,
    order,
    tiles,
    slots,
    count,
    BT: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One expert's part of the order and of the list. Each counts all slots: that needs no pass before."""
    expert = tl.program_id(0)
    counts = tl.zeros((EXPERTS,), tl.int32)
    for start in range(0, slots, CHUNK):
        slot = start + tl.arange(0, CHUNK)
        counts += tl.histogram(tl.load(chosen + slot, mask=slot < slots, other=0), EXPERTS, mask=slot < slots)
    index = tl.arange(0, EXPERTS)
    begin = tl.sum(tl.where(index < expert, counts, 0), axis=0)
    own = tl.sum(tl.where(index == expert, counts, 0), axis=0)
    needed = (counts + (BT - 1)) // BT
    tile = tl.sum(tl.where(index < expert, needed, 0), axis=0)

    position = begin
    for start in range(0, slots, CHUNK):
        slot = start + tl.arange(0, CHUNK)
        mine = (tl.load(chosen + slot, mask=slot < slots, other=-1) == expert).to(tl.int32)
        tl.store(order + position + tl.cumsum(mine, axis=0) - 1, slot, mask=mine > 0)
        position += tl.sum(mine, axis=0)

    for start in range(begin, begin + own, BT):
        tl.store(tiles + tile, expert)
        tl.store(tiles + count + tile, start)
        tl.store(tiles + 2 * count + tile, tl.minimum(start + BT, begin + own))
        tile += 1
    if expert == tl.num_programs(0) - 1:
        for unused in range(tile, count):
            tl.store(tiles + unused, -1)


@triton.jit(do_not_specialize=["count"])
def expert_kernel(
    x,
    values,
    high,
    header,
    up_values,
    up_high,
    up_header,
    y,
    order,
    tiles,
    count,
    rows,
    columns,
    x_stride,
    stride,
    high_stride,
    header_stride,
    up_stride,
    up_high_stride,
    up_header_stride,
    GATED: tl.constexpr,
    ACT: tl.constexpr,
    TOP_K: tl.constexpr,
    FORMAT: tl.constexpr,
    UP_FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    row_tiles = tl.cdiv(rows, BN)
    tile = tl.program_id(0) // row_tiles
    expert = tl.load(tiles + tile).to(tl.int64)
    if expert < 0:
        return
    row = (tl.program_id(0) % row_tiles) * BN + tl.arange(0, BN)
    position = tl.load(tiles + count + tile) + tl.arange(0, BT)
    kept = position < tl.load(tiles + 2 * count + tile)
    slot = tl.load(order + position, mask=kept, other=0)
    n = tl.minimum(row, rows - 1)
    units = tl.cdiv(columns, 256)
    source = slot // TOP_K if GATED else position
    target = position if GATED else slot
    x_rows = x + source.to(tl.int64) * x_stride
    values += expert * stride
    if FORMAT != "dense":
        header += expert * header_stride
        if high is not None:
            high += expert * high_stride
    result = tile_product(x_rows, kept, values, high, header, n, rows, columns, 0, units, FORMAT, EVEN, BN, BT, BK)
    if GATED:
        up_values += expert * up_stride
        if UP_FORMAT != "dense":
            up_header += expert * up_header_stride
            if up_high is not None:
                up_high += expert * up_high_stride
        raised = tile_product(
            x_rows, kept, up_values, up_high, up_header, n, rows, columns, 0, units, UP_FORMAT, EVEN, BN, BT, BK
        )
        result = activated(result, ACT) * raised
    at = y + target.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(at, result.to(y.dtype.element_ty), mask=(row < rows)[:, None] & kept[None, :])


@triton.jit
def combine_kernel(lowered, shares, y, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """Adds a row's experts by rank."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = column < width
    total = tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(TOP_K):
        slot = token * TOP_K + rank
        values = tl.load(lowered + slot * width + column, mask=kept, other=0).to(tl.float32)
        total += tl.load(shares + slot) * values
    tl.store(y + token * width + column, total.to(y.dtype.element_ty), mask=kept)
