"""Repairs Triton's interpreter.

It holds bfloat16 and float8 as integers: it multiplies those, and rounds towards zero. And it makes a Python integer of
a scalar in a way that numpy 2.4 no longer has, so that no loop may have a computed bound. Nor
has it NVIDIA's library, nor other kernels to wait for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice
from triton.runtime import interpreter

from trivet.runtime.cuda.kernels import device

TORCH = {
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
    tl.bfloat16: torch.bfloat16,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
}
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def convert(array: np.ndarray, source: tl.dtype, target: tl.dtype, rounding: Any) -> np.ndarray:
    """The bits of `array`, whose bits are those of `source`, in `target`, rounded to the nearest."""
    values = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).view(TORCH[source])
    converted = values.to(TORCH[target])
    return converted.view(torch.uint8).numpy().view(BITS[converted.element_size()]).reshape(array.shape)


def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """Summed in float64: that of float32 depends on how many rows there are, on a GPU it does not."""

    def numbers(x: Any) -> np.ndarray:
        scalar = x.dtype.scalar
        if x.data.dtype.kind == "f" or scalar not in TORCH:
            return x.data
        return convert(x.data, scalar, tl.float32, None).view(np.float32)

    wide = np.float64 if d.data.dtype.kind == "f" else d.data.dtype
    product = np.matmul(numbers(a), numbers(b), dtype=wide).astype(d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    """Rounded once."""
    wide = [operand.data.astype(np.float64) for operand in (x, y, z)]
    return interpreter.TensorHandle((wide[0] * wide[1] + wide[2]).astype(z.data.dtype), z.dtype.scalar)


@triton.jit
def byte_perm(a, b, selector):
    """Byte i of the result is that byte of (b, a) which nibble i of `selector` says. Its top bits are not looked at."""
    result = selector & 0
    for i in tl.static_range(4):
        index = (selector >> (4 * i)) & 7
        byte = (tl.where(index < 4, a, b) >> (8 * (index & 3))) & 255
        result |= byte << (8 * i)
    return result


@triton.jit
def nothing():
    """In place of what orders kernels: here each ends before the next begins."""


patch_lang_tensor = interpreter._patch_lang_tensor


def patch_tensor(tensor: Any, scope: Any) -> None:
    patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def repair() -> None:
    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter.InterpreterBuilder.create_fma = create_fma
    interpreter._patch_lang_tensor = patch_tensor
    libdevice.byte_perm = byte_perm
    device.gdc_wait = device.gdc_launch_dependents = nothing
