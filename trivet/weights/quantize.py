"""Quantising values: float32 rows into the blocks of a format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trivet.weights.formats import Format
from trivet.weights.quantizers import plain, searched

_LARGEST = 1e9
"""Below this the arithmetic of the searches stays finite; 16-bit scales do not reach it."""


def quantize(x: np.ndarray, fmt: Format) -> np.ndarray:
    """x: float32 `[..., columns]`; returns uint8 `[..., bytes per row]`.

    Raises ValueError when a value is not finite or too large for the format, when columns is not a whole number of
    blocks, or when there is no quantiser for the format.
    """
    row_bytes = fmt.row_bytes(x.shape[-1])
    if fmt not in QUANTIZERS:
        raise ValueError(f"writing {fmt.name} is not supported; {', '.join(f.name for f in QUANTIZERS)} are")
    if not np.isfinite(x).all():
        raise ValueError("a value is not finite")
    if fmt.block_size > 1 and np.abs(x).max(initial=0) > _LARGEST:
        raise ValueError(f"{np.abs(x).max():g} is too large for the format's scales")
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, fmt.block_size)
    return QUANTIZERS[fmt](blocks).reshape(*x.shape[:-1], row_bytes)


QUANTIZERS: dict[Format, Callable[[np.ndarray], np.ndarray]] = {
    Format.F32: plain.f32,
    Format.F16: plain.f16,
    Format.BF16: plain.bf16,
    Format.Q8_0: plain.q8_0,
    Format.Q6_K: searched.q6_k,
    Format.Q5_K: searched.q5_k,
    Format.Q5_1: plain.q5_1,
    Format.Q5_0: plain.q5_0,
    Format.Q4_K: searched.q4_k,
    Format.Q4_1: plain.q4_1,
    Format.Q4_0: plain.q4_0,
    Format.IQ4_NL: searched.iq4_nl,
    Format.IQ4_XS: searched.iq4_xs,
    Format.MXFP4: plain.mxfp4,
    Format.NVFP4: plain.nvfp4,
    Format.Q3_K: searched.q3_k,
    Format.Q2_K: searched.q2_k,
    Format.Q2_0: plain.q2_0,
    Format.TQ2_0: plain.tq2_0,
    Format.TQ1_0: plain.tq1_0,
    Format.Q1_0: plain.q1_0,
}
"""float32 `[blocks, values]` -> uint8 `[blocks, bytes]`."""
