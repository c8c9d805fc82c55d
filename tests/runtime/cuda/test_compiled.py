"""The helper that compiles what a call launches."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.runtime.cuda.compiled import compiled


@triton.jit
def double_kernel(x, y, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < size) * 2, mask=i < size)


def double(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    double_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y


def test_interpreted() -> None:
    assert double(torch.arange(1030.0)).tolist() == [2 * i for i in range(1030)]


@pytest.mark.parametrize("arch", [80, 90])
def test_compiled(arch: int) -> None:
    [kernel] = compiled(lambda: double(torch.empty(32, 1024, dtype=torch.bfloat16, device="meta")), arch)
    assert kernel.name == "double_kernel"
    assert 0 < kernel.registers < 64
    assert kernel.stack == kernel.shared == 0
    assert "ld.global.v4.b32" in kernel.ptx
    assert f".target sm_{arch}" in kernel.ptx


def test_pointers_that_are_not_aligned() -> None:
    [kernel] = compiled(lambda: double(torch.empty(33, dtype=torch.bfloat16, device="meta")[1:]))
    assert "ld.global.v4.b32" not in kernel.ptx
