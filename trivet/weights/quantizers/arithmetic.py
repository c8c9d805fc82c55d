"""What the quantisers share."""

from __future__ import annotations

import numpy as np

_SMALLEST = 1e-30
"""As a 16-bit scale, what is smaller is 0."""


def largest(x: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude along an axis, which is kept."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=axis, keepdims=True), axis=axis)


def rounded(x: np.ndarray, low: int, high: int) -> np.ndarray:
    """Round to integers in low..high, as float32."""
    q = np.rint(x, dtype=np.float32, casting="same_kind")
    return np.clip(q, low, high, out=q)


def rounded_away(x: np.ndarray) -> np.ndarray:
    """Round to integers, halves away from zero."""
    size = np.abs(x)
    whole = np.floor(size)
    return np.copysign(whole + (size - whole >= 0.5), x)


def dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums of products along axis 0, as float64 for what is computed of them."""
    return np.einsum("i...,i...", x, y).astype(np.float64)


def ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.divide(x, y, out=np.zeros_like(x), where=y != 0)


def inverse(x: np.ndarray) -> np.ndarray:
    """1 / x as float32; 0 where x is so small that as a 16-bit scale it is 0 anyway."""
    x = x.astype(np.float32)
    return np.divide(1, x, out=np.zeros_like(x), where=np.abs(x) > _SMALLEST)


def half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ValueError(f"{np.abs(x).max():g} is too large for a 16-bit float (65504 at most)")
    return rounded


def nibbles(q: np.ndarray) -> np.ndarray:
    """Codes `[..., n]` of 4 bits to bytes `[..., n / 2]`: the first half of them low, the second high."""
    low, high = np.split(q.astype(np.uint8), 2, axis=-1)
    return low & 15 | high << 4


def least(*candidates: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """For each element, the candidate whose first array, the error, is smallest; the first one of equals."""
    best = candidates[0]
    for candidate in candidates[1:]:
        best = tuple(np.where(candidate[0] < best[0], candidate, best))
    return best
