"""What was repaired in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def product_kernel(a, b, c):
    i = tl.arange(0, 16)
    at = i[:, None] * 16 + i[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at)).to(c.dtype.element_ty))


@triton.jit
def cast_kernel(x, y, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products(dtype: torch.dtype) -> None:
    a, b, c = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype).unbind()
    product_kernel[(1,)](a, b, c)
    torch.testing.assert_close(c, (a.double() @ b.double()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_casts_round_to_nearest(dtype: torch.dtype) -> None:
    x = torch.randn(1024, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 2, 1024)
    y, back = torch.empty(1024, dtype=dtype), torch.empty(1024)
    cast_kernel[(1,)](x, y, SIZE=1024)
    cast_kernel[(1,)](y, back, SIZE=1024)
    assert (y.float() == x.to(dtype).float()).all()
    assert (back == y.float()).all()


@triton.jit
def loop_kernel(x, y, ONE: tl.constexpr):
    total = 0
    for _ in tl.range(0, tl.load(x) // 2 + ONE):
        total += 1
    tl.store(y, total)


def test_loops_with_a_bound_from_memory() -> None:
    x = torch.tensor([9, 0], dtype=torch.int32)
    loop_kernel[(1,)](x, x[1:], ONE=1)
    assert x.tolist() == [9, 5]
