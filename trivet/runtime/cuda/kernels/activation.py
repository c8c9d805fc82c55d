"""Gated activations, in float32, rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.device import await_previous, early

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")

BLOCK = 1024
"""Columns of a program: eight of each thread of four warps, 16 bytes."""


def act_mul(gate: torch.Tensor, up: torch.Tensor, act: str) -> torch.Tensor:
    """act(gate) * up, all [T, width]. `act` is one of ACTIVATIONS. Rows may be at any distance."""
    tokens, width = gate.shape
    y = gate.new_empty(tokens, width)
    act_mul_kernel[(tokens, triton.cdiv(width, BLOCK))](
        gate,
        up,
        y,
        width,
        gate.stride(0),
        up.stride(0),
        ACT=act,
        BLOCK=BLOCK,
        num_warps=4,
        **early(gate.device),
    )
    return y


@triton.jit
def activated(x, ACT: tl.constexpr):
    """float32 of float32."""
    if ACT == "silu":
        y = x * tl.sigmoid(x)
    elif ACT == "gelu_tanh":
        # (1 + tanh(z)) / 2 is sigmoid(2 z)
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        tl.static_assert(ACT == "gelu")
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    return y


@triton.jit
def act_mul_kernel(
    gate, up, y, width, gate_stride, up_stride, ACT: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    await_previous(EARLY)
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = column < width
    g = tl.load(gate + token * gate_stride + column, mask=kept, other=0).to(tl.float32)
    u = tl.load(up + token * up_stride + column, mask=kept, other=0).to(tl.float32)
    tl.store(y + token * width + column, (activated(g, ACT) * u).to(y.dtype.element_ty), mask=kept)
