from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.kernels.values import error, meta, random
from trivet.runtime.cuda.kernels.activation import ACTIVATIONS, act_mul


def reference(x: torch.Tensor, act: str) -> torch.Tensor:
    if act == "silu":
        return functional.silu(x.double())
    return functional.gelu(x.double(), approximate="tanh" if act == "gelu_tanh" else "none")


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)])
def test_act_mul(act: str, dtype: torch.dtype, tolerance: float) -> None:
    both = 4 * random(5, 2 * 1100, dtype=dtype)
    gate, up = both[:, :1100], both[:, 1100:]
    assert error(act_mul(gate, up, act), reference(gate, act) * up.double()) < tolerance


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_extremes(act: str) -> None:
    gate = torch.tensor([[-1e4, -80.0, 0.0, 80.0, 1e4]])
    assert act_mul(gate, torch.ones(1, 5), act).tolist() == [[0.0, pytest.approx(0, abs=1e-6), 0.0, 80.0, 1e4]]


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("arch", [80, 90])
def test_compiled(act: str, arch: int) -> None:
    [kernel] = compiled(lambda: act_mul(meta(64, 14336), meta(64, 14336), act), arch)
    assert kernel.stack == 0
    assert kernel.ptx.count("ld.global.v4.b32") == 2
