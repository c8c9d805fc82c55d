"""Rotary embeddings, and the way of keys and values into the paged cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.device import await_previous, early

ELEMENTS = 2048
"""Columns that a program turns: 16 for each of its 128 threads, two loads of 16 bytes in bfloat16."""

E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def stored(x, TYPE: tl.constexpr):
    """Float8 has no infinity: what is too large for it becomes its largest number."""
    if TYPE.is_fp8():
        x = tl.minimum(tl.maximum(x.to(tl.float32), -E4M3_MAX), E4M3_MAX)
    return x.to(TYPE)


@triton.jit
def angles(position, inv_freq, i, PAIRS: tl.constexpr, magnitude):
    """Cosines and sines for the pairs `i`. The angle is a part of a turn, found in float64: in float32 that of position
    100,000 would be off by 0.01."""
    frequency = tl.load(inv_freq + i, mask=i < PAIRS, other=0.0).to(tl.float64)
    turns = position.to(tl.float64) * frequency * (0.5 / 3.141592653589793)
    angle = ((turns - tl.floor(turns + 0.5)) * 6.283185307179586).to(tl.float32)
    return tl.cos(angle) * magnitude, tl.sin(angle) * magnitude


@triton.jit
def rotate(
    x, y, position, inv_freq, magnitude, first, stop,
    INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr, HEAD_DIM: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr,
    REST: tl.constexpr,
):  # fmt: skip
    """The heads first, first + 1, ... up to `stop` of the row x, into the row y."""
    head, i = first + tl.arange(0, HEADS), tl.arange(0, COLUMNS)
    cos, sin = angles(position, inv_freq, i, PAIRS, magnitude)
    inside = (head < stop)[:, None] & (i < PAIRS)[None, :]
    if INTERLEAVED:
        both = tl.arange(0, 2 * COLUMNS)
        at = head[:, None] * HEAD_DIM + both[None, :]
        pairs = (head < stop)[:, None] & (both < 2 * PAIRS)[None, :]
        a, b = tl.split(tl.reshape(tl.load(x + at, mask=pairs, other=0.0).to(tl.float32), [HEADS, COLUMNS, 2]))
        turned = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), [HEADS, 2 * COLUMNS])
        tl.store(y + at, stored(turned, y.dtype.element_ty), mask=pairs)
    else:
        at = head[:, None] * HEAD_DIM + i[None, :]
        a = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x + at + PAIRS, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + at, stored(a * cos - b * sin, y.dtype.element_ty), mask=inside)
        tl.store(y + at + PAIRS, stored(b * cos + a * sin, y.dtype.element_ty), mask=inside)
    if 2 * PAIRS < HEAD_DIM:
        copy(x + 2 * PAIRS, y + 2 * PAIRS, first, stop, HEAD_DIM - 2 * PAIRS, HEAD_DIM, HEADS, REST)


@triton.jit
def copy(x, y, first, stop, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr):
    head, i = first + tl.arange(0, HEADS), tl.arange(0, COLUMNS)
    at = head[:, None] * HEAD_DIM + i[None, :]
    inside = (head < stop)[:, None] & (i < WIDTH)[None, :]
    tl.store(y + at, stored(tl.load(x + at, mask=inside, other=0.0), y.dtype.element_ty), mask=inside)


@triton.jit
def rope_kernel(
    x, y, positions, inv_freq, magnitude, stride,
    INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr, HEAD_DIM: tl.constexpr, TOTAL: tl.constexpr, HEADS: tl.constexpr,
    COLUMNS: tl.constexpr, REST: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid: (T, blocks of HEADS heads)."""
    await_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    rotate(
        x + row * stride, y + row * TOTAL * HEAD_DIM, tl.load(positions + row), inv_freq, magnitude,
        tl.program_id(1) * HEADS, TOTAL, INTERLEAVED, PAIRS, HEAD_DIM, HEADS, COLUMNS, REST,
    )  # fmt: skip


@triton.jit
def rope_and_cache_kernel(
    q, k, v, y, k_cache, v_cache, positions, slots, inv_freq, magnitude, q_stride, k_stride, v_stride,
    INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr, HEAD_DIM: tl.constexpr, TOTAL: tl.constexpr,
    KV_HEADS: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr, REST: tl.constexpr, DIM: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Grid: (T, blocks of HEADS heads of q, then of k with v)."""
    await_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    Q_BLOCKS: tl.constexpr = (TOTAL + HEADS - 1) // HEADS
    if tl.program_id(1) < Q_BLOCKS:
        rotate(
            q + row * q_stride, y + row * TOTAL * HEAD_DIM, position, inv_freq, magnitude, tl.program_id(1) * HEADS,
            TOTAL, INTERLEAVED, PAIRS, HEAD_DIM, HEADS, COLUMNS, REST,
        )  # fmt: skip
    else:
        slot = tl.load(slots + row).to(tl.int64)
        if slot >= 0:
            first = (tl.program_id(1) - Q_BLOCKS) * HEADS
            at = slot * KV_HEADS * HEAD_DIM
            rotate(
                k + row * k_stride, k_cache + at, position, inv_freq, magnitude, first, KV_HEADS, INTERLEAVED, PAIRS,
                HEAD_DIM, HEADS, COLUMNS, REST,
            )  # fmt: skip
            copy(v + row * v_stride, v_cache + at, first, KV_HEADS, HEAD_DIM, HEAD_DIM, HEADS, DIM)


@triton.jit
def write_cache_kernel(
    k, v, k_cache, v_cache, slots, k_stride, v_stride,
    HEAD_DIM: tl.constexpr, KV_HEADS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid: (T, blocks of HEADS heads)."""
    await_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        first, at = tl.program_id(1) * HEADS, slot * KV_HEADS * HEAD_DIM
        copy(k + row * k_stride, k_cache + at, first, KV_HEADS, HEAD_DIM, HEAD_DIM, HEADS, DIM)
        copy(v + row * v_stride, v_cache + at, first, KV_HEADS, HEAD_DIM, HEAD_DIM, HEADS, DIM)


def rope(
    x: torch.Tensor,
    positions: torch.Tensor,
    inv_freq: torch.Tensor,
    interleaved: bool,
    magnitude: float,
    head_dim: int,
) -> torch.Tensor:
    """Rotates each head of x [T, heads * head_dim] by its row's position (int32 [T]): see `Rotary` in graph/ops.py.

    `inv_freq` [pairs] may be float64, which is what a long context needs. The result is contiguous, in x's type.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total, pairs = x.shape[1] // head_dim, inv_freq.shape[0]
    heads = _heads(total, head_dim)
    rope_kernel[(x.shape[0], triton.cdiv(total, heads))](
        x, y, positions, inv_freq, magnitude, x.stride(0), INTERLEAVED=interleaved, PAIRS=pairs, HEAD_DIM=head_dim,
        TOTAL=total, HEADS=heads, COLUMNS=triton.next_power_of_2(pairs), REST=_rest(head_dim, pairs), num_warps=4,
        **early(x.device),
    )  # fmt: skip
    return y


def rope_and_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    inv_freq: torch.Tensor,
    interleaved: bool,
    magnitude: float,
    head_dim: int,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """Rotates q and k as `rope` does; writes k and v to their slots of the cache and returns q, contiguous.

    Caches are [blocks, block_size, kv_heads, head_dim], contiguous. `slots` int32 [T] are block * block_size + offset;
    a row with -1 writes nothing. Float8 takes what is past its range as its largest number.
    """
    y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    total, kv_heads, pairs = q.shape[1] // head_dim, k_cache.shape[2], inv_freq.shape[0]
    heads = _heads(total, head_dim)
    rope_and_cache_kernel[(q.shape[0], triton.cdiv(total, heads) + triton.cdiv(kv_heads, heads))](
        q, k, v, y, k_cache, v_cache, positions, slots, inv_freq, magnitude, q.stride(0), k.stride(0), v.stride(0),
        INTERLEAVED=interleaved, PAIRS=pairs, HEAD_DIM=head_dim, TOTAL=total, KV_HEADS=kv_heads, HEADS=heads,
        COLUMNS=triton.next_power_of_2(pairs), REST=_rest(head_dim, pairs), DIM=triton.next_power_of_2(head_dim),
        num_warps=4, **early(q.device),
    )  # fmt: skip
    return y


def write_cache(
    k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor
) -> None:
    """As `rope_and_cache`, where keys are not rotated."""
    kv_heads, head_dim = k_cache.shape[2:]
    heads = _heads(kv_heads, head_dim)
    write_cache_kernel[(k.shape[0], triton.cdiv(kv_heads, heads))](
        k, v, k_cache, v_cache, slots, k.stride(0), v.stride(0), HEAD_DIM=head_dim, KV_HEADS=kv_heads, HEADS=heads,
        DIM=triton.next_power_of_2(head_dim), num_warps=4, **early(k.device),
    )  # fmt: skip


def _heads(total: int, head_dim: int) -> int:
    """Heads that a program takes."""
    return min(triton.next_power_of_2(total), max(1, ELEMENTS // triton.next_power_of_2(head_dim)))


def _rest(head_dim: int, pairs: int) -> int:
    return triton.next_power_of_2(max(1, head_dim - 2 * pairs))
