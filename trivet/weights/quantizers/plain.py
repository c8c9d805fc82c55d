"""Floats, and the formats whose integers are a rounding of the block by a scale that its extremes give.

Q4_0 to Q8_0, TQ1_0, TQ2_0 and MXFP4 are ggml's own roundings.
"""

from __future__ import annotations

import numpy as np

from trivet.weights.quantizers.arithmetic import half, inverse, largest, nibbles, rounded_away

FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)
"""Twice the magnitudes of a four-bit float."""


def f32(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint8)


def f16(x: np.ndarray) -> np.ndarray:
    return half(x).view(np.uint8)


def bf16(x: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8)


def q8_0(x: np.ndarray) -> np.ndarray:
    """d = max |x| / 127; q = x / d, halves rounded away from zero."""
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    q = rounded_away(x * inverse(d)).astype(np.int8)
    return np.concatenate([half(d).view(np.uint8), q.view(np.uint8)], axis=1)


def q4_0(x: np.ndarray) -> np.ndarray:
    d, q = _symmetric(x, 8)
    return np.concatenate([d, nibbles(q)], axis=1)


def q5_0(x: np.ndarray) -> np.ndarray:
    d, q = _symmetric(x, 16)
    return np.concatenate([d, _fifth_bits(q), nibbles(q & 15)], axis=1)


def q4_1(x: np.ndarray) -> np.ndarray:
    d, m, q = _affine(x, 15)
    return np.concatenate([d, m, nibbles(q)], axis=1)


def q5_1(x: np.ndarray) -> np.ndarray:
    d, m, q = _affine(x, 31)
    return np.concatenate([d, m, _fifth_bits(q), nibbles(q & 15)], axis=1)


def _symmetric(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """d = (the x of largest magnitude) / -levels; q = x / d + levels."""
    d = largest(x, axis=1) / np.float32(-levels)
    q = np.minimum(x * inverse(d) + np.float32(levels + 0.5), 2 * levels - 1).astype(np.uint8)
    return half(d).view(np.uint8), q


def _affine(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """m = min x; d = (max x - m) / levels; q = (x - m) / d."""
    m = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - m) / np.float32(levels)
    q = np.minimum((x - m) * inverse(d) + np.float32(0.5), levels).astype(np.uint8)
    return half(d).view(np.uint8), half(m).view(np.uint8), q


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def q1_0(x: np.ndarray) -> np.ndarray:
    """d = mean |x|; q is whether x is not negative."""
    d = np.abs(x).mean(axis=1, keepdims=True)
    return np.concatenate([half(d).view(np.uint8), np.packbits(x >= 0, axis=1, bitorder="little")], axis=1)


def q2_0(x: np.ndarray) -> np.ndarray:
    d, q = _ternary(x)
    return np.concatenate([d, _pack(q.reshape(-1, 16, 4), 4)], axis=1)


def tq2_0(x: np.ndarray) -> np.ndarray:
    d, q = _ternary(x)
    return np.concatenate([_pack(q.reshape(-1, 2, 4, 32).swapaxes(2, 3), 4).reshape(-1, 64), d], axis=1)


def tq1_0(x: np.ndarray) -> np.ndarray:
    """Five digits of base 3 a byte, as a fraction of 256 that is rounded up; the last four bytes have four."""
    d, q = _ternary(x)
    digits = [q[:, :160].reshape(-1, 5, 32), q[:, 160:240].reshape(-1, 5, 16), q[:, 240:].reshape(-1, 4, 4)]
    numbers = [_pack(part[:, ::-1].swapaxes(1, 2), 3, np.uint16) for part in digits]
    numbers[2] *= 3
    packed = (np.concatenate(numbers, axis=1) * 256 + 242) // 243
    return np.concatenate([packed.astype(np.uint8), d], axis=1)


def _ternary(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d = max |x|; q = x / d + 1."""
    d = np.abs(x).max(axis=1, keepdims=True)
    return half(d).view(np.uint8), (rounded_away(x * inverse(d)) + 1).astype(np.uint8)


def _pack(digits: np.ndarray, base: int, dtype: type = np.uint8) -> np.ndarray:
    """Numbers `[...]` of digits `[..., n]`, the lowest first."""
    return (digits * base ** np.arange(digits.shape[-1])).sum(axis=-1).astype(dtype)


def mxfp4(x: np.ndarray) -> np.ndarray:
    """A power of two such that the largest magnitude is between 4 and 8 (of which 6 is the largest there is)."""
    size = np.abs(x).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        exponent = np.where(size > 0, np.floor(np.log2(size)) + 125, 0).clip(0, 254)
    d = np.ldexp(np.float32(1), exponent.astype(np.int32) - 128)
    return np.concatenate([exponent.astype(np.uint8), nibbles(_fp4(x, d))], axis=1)


def nvfp4(x: np.ndarray) -> np.ndarray:
    """A scale for each 16 values by which the largest magnitude becomes 6, as a float of 4 exponent and 3 mantissa
    bits.
    """
    runs = x.reshape(-1, 4, 16)
    scales = np.arange(0x7F)
    normal = np.ldexp(1 + (scales & 7) / 8, (scales >> 3) - 7)
    values = np.where(scales < 8, scales / 512, normal).astype(np.float32)
    scale = np.searchsorted((values[1:] + values[:-1]) / 2, np.abs(runs).max(axis=2) / 6)
    codes = _fp4(runs, values[scale][..., None] / 2)
    return np.concatenate([scale.astype(np.uint8), nibbles(codes).reshape(-1, 32)], axis=1)


def _fp4(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The codes of the four-bit floats nearest to x / d; the smaller one of two as near."""
    code = np.zeros(x.shape, np.uint8)
    for middle in (FP4[1:] + FP4[:-1]) / 2:
        code += np.abs(x) > d * middle
    return np.where((x < 0) & (code > 0), code + 8, code).astype(np.uint8)
