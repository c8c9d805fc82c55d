from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter

from tests.runtime.cuda.interpreter import convert


def numbers(x: Any) -> np.ndarray:
    """float32."""
    if x.dtype.scalar == tl.bfloat16:
        return convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32)
    return x.data.astype(np.float32)


def sequential_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    left, right, total = numbers(a), numbers(b), d.data
    for k in range(left.shape[-1]):
        total = total + left[..., :, k, None] * right[..., k, None, :]
    return interpreter.TensorHandle(total, d.dtype.scalar)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dots add one product after the other to their sums, as on a GPU: bits depend on the order of K, on no tile."""
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", sequential_dot)
