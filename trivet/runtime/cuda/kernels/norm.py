"""Root mean square norms, in float32, rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.device import await_previous, early


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, group: int = 0) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, of whole rows of x [T, width], or of every `group` columns alone.

    weight: [group or width]. Rows of x may be at any distance.
    """
    tokens, width = x.shape
    group = group or width
    y = x.new_empty(tokens, width)
    together, block, warps = tile(group)
    norms = tokens * (width // group)
    rms_norm_kernel[(triton.cdiv(norms, together),)](
        x,
        weight,
        y,
        norms,
        width // group,
        x.stride(0),
        eps,
        WIDTH=group,
        NORMS=together,
        BLOCK=block,
        num_warps=warps,
        **early(x.device),
    )
    return y


def add_rms_norm(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(a + b, the norm of that), both [T, width]. The sum is rounded before it is normed: as by two operations."""
    tokens, width = a.shape
    total, y = a.new_empty(tokens, width), a.new_empty(tokens, width)
    _, block, warps = tile(width)
    add_rms_norm_kernel[(tokens,)](
        a,
        b,
        weight,
        total,
        y,
        a.stride(0),
        b.stride(0),
        eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=warps,
        **early(a.device),
    )
    return total, y


def tile(width: int) -> tuple[int, int, int]:
    """(norms, columns, warps) of a program: at least 1024 columns, and 16 of each thread.

    It depends on the width alone: so does the order in which a row's squares are added.
    """
    block = triton.next_power_of_2(width)
    return max(1, 1024 // block), block, min(16, max(4, block // 512))


@triton.jit
def normed(x, weight, eps, WIDTH: tl.constexpr):
    """float32 [norms, block] of `x`, zero past the width."""
    mean = tl.sum(x * x, axis=1) / WIDTH
    return x * tl.rsqrt(mean + eps)[:, None] * weight[None, :]


@triton.jit(do_not_specialize=["norms"])
def rms_norm_kernel(
    x,
    weight,
    y,
    norms,
    groups,
    x_stride,
    eps,
    WIDTH: tl.constexpr,
    NORMS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    await_previous(EARLY)
    norm = tl.program_id(0) * NORMS + tl.arange(0, NORMS)
    column = tl.arange(0, BLOCK)
    kept = (norm < norms)[:, None] & (column < WIDTH)[None, :]
    start = (norm // groups).to(tl.int64) * x_stride + (norm % groups) * WIDTH
    values = tl.load(x + start[:, None] + column[None, :], mask=kept, other=0).to(tl.float32)
    scale = tl.load(weight + column, mask=column < WIDTH, other=0).to(tl.float32)
    result = normed(values, scale, eps, WIDTH)
    tl.store(y + norm.to(tl.int64)[:, None] * WIDTH + column[None, :], result.to(y.dtype.element_ty), mask=kept)


@triton.jit
def add_rms_norm_kernel(
    a,
    b,
    weight,
    total,
    y,
    a_stride,
    b_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    await_previous(EARLY)
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    kept = column < WIDTH
    left = tl.load(a + token * a_stride + column, mask=kept, other=0).to(tl.float32)
    right = tl.load(b + token * b_stride + column, mask=kept, other=0).to(tl.float32)
    rounded = (left + right).to(total.dtype.element_ty)
    tl.store(total + token * WIDTH + column, rounded, mask=kept)
    scale = tl.load(weight + column, mask=kept, other=0).to(tl.float32)
    result = normed(rounded.to(tl.float32)[None, :], scale, eps, WIDTH)
    at = y + token * WIDTH + column[None, :]
    tl.store(at, result.to(y.dtype.element_ty), mask=kept[None, :])
