"""Kernels that take their places before the one before them has ended."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.paged import Batch
from trivet.runtime.cuda.kernels.activation import act_mul
from trivet.runtime.cuda.kernels.attention import attention
from trivet.runtime.cuda.kernels.linear import linear
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.norm import add_rms_norm, rms_norm
from trivet.runtime.cuda.kernels.rope import rope, rope_and_cache, write_cache


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


ROWS, CACHE = meta(4, 512), (meta(8, 16, 2, 128), meta(8, 16, 2, 128))
NUMBERS, FREQUENCIES = meta(4, dtype=torch.int32), meta(64, dtype=torch.float64)
BATCH = Batch(meta(5, dtype=torch.int32), NUMBERS, meta(4, 512, dtype=torch.int32), NUMBERS, NUMBERS, 8192)
HEADS = {"heads": 4, "kv_heads": 2, "head_dim": 128, "scale": 0.1, "window": 0, "softcap": 0.0}
KERNELS: dict[str, Callable[[], object]] = {
    "activation": lambda: act_mul(ROWS, ROWS, "silu"),
    "attention": lambda: attention(ROWS, *CACHE, BATCH, **HEADS, decode=True),
    "norms": lambda: (rms_norm(ROWS, meta(512), 1e-5), add_rms_norm(ROWS, ROWS, meta(512), 1e-5)),
    "products": lambda: linear(ROWS, Matrix(meta(1024, 512))),
    "products of other types": lambda: linear(ROWS, Matrix(meta(128, 2048, dtype=torch.float16))),
    "rope": lambda: (
        rope(ROWS, NUMBERS, FREQUENCIES, False, 1.0, 128),
        rope_and_cache(ROWS, ROWS[:, :256], ROWS[:, 256:], NUMBERS, NUMBERS, FREQUENCIES, False, 1.0, 128, *CACHE),
        write_cache(ROWS[:, :256], ROWS[:, 256:], NUMBERS, *CACHE),
    ),
}
ACCESSES = r"(ld|st|red|atom)\.global|cp\.async\.(ca|cg|bulk\.tensor)"


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_read_or_written_before_the_kernel_before_has_ended(name: str) -> None:
    for kernel in compiled(KERNELS[name], 90):
        first = re.search(ACCESSES, kernel.ptx)
        assert first
        assert 0 < kernel.ptx.find("griddepcontrol.wait") < first.start(), kernel


@pytest.mark.parametrize("name", KERNELS)
def test_elsewhere_kernels_follow_each_other(name: str) -> None:
    assert not any("griddepcontrol" in kernel.ptx for kernel in compiled(KERNELS[name], 80))
