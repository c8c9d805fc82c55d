from __future__ import annotations

import pytest
import torch

from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.kernels.values import error, meta, random
from trivet.runtime.cuda.kernels.norm import add_rms_norm, rms_norm

EPS = 1e-5


def reference(x: torch.Tensor, weight: torch.Tensor, group: int = 0) -> torch.Tensor:
    grouped = x.double().unflatten(1, (-1, group or x.shape[1]))
    return (grouped / (grouped.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()).flatten(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)])
@pytest.mark.parametrize(("tokens", "width", "group"), [(1, 64, 0), (3, 2880, 0), (9, 384, 96), (5, 512, 128)])
def test_rms_norm(tokens: int, width: int, group: int, dtype: torch.dtype, tolerance: float) -> None:
    x, weight = 3 * random(tokens, width, dtype=dtype), random(group or width, seed=1)
    assert error(rms_norm(x, weight, EPS, group), reference(x, weight, group)) < tolerance


def test_rows_at_a_distance() -> None:
    x, weight = random(6, 300), random(64)
    part = x[:, 100:228]
    assert rms_norm(part, weight, EPS, 64).equal(rms_norm(part.contiguous(), weight, EPS, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_rms_norm_is_an_addition_and_a_norm(dtype: torch.dtype) -> None:
    a, b, weight = random(7, 400, dtype=dtype)[:, :320], random(7, 320, dtype=dtype, seed=1), random(320, seed=2)
    total, y = add_rms_norm(a, b, weight, EPS)
    assert total.equal(a + b)
    assert y.equal(rms_norm(a + b, weight, EPS))


@pytest.mark.parametrize("group", [0, 128])
def test_rows_beside(group: int) -> None:
    x, weight = random(33, 256, dtype=torch.bfloat16), random(group or 256)
    together = rms_norm(x, weight, EPS, group)
    for count in (1, 2, 7):
        assert rms_norm(x[-count:], weight, EPS, group).equal(together[-count:])


@pytest.mark.parametrize("arch", [80, 90])
def test_compiled(arch: int) -> None:
    def calls() -> None:
        for width in (2048, 4096, 16384):
            add_rms_norm(meta(64, width), meta(64, width), meta(width), EPS)
        rms_norm(meta(64, 4096), meta(128), EPS, 128)

    for kernel in compiled(calls, arch):
        assert kernel.stack == 0, kernel
        assert "ld.global.v4.b32" in kernel.ptx, kernel
