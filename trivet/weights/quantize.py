"""Quantising values: float32 rows into the blocks of a format. Layouts are ggml's.

Q8_0 and Q4_0 are ggml's own rounding. The K formats have nested scales, so their blocks are found by search:
least squares over a few roundings, then scales and roundings are refined in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from trivet.weights.formats import Format

_SMALLEST, _LARGEST = 1e-30, 1e9
"""Between these the arithmetic of the searches stays finite; 16-bit scales reach neither."""


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


def _f32(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint8)


def _f16(x: np.ndarray) -> np.ndarray:
    return _half(x).view(np.uint8)


def _bf16(x: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8)


def _q8_0(x: np.ndarray) -> np.ndarray:
    """d = max |x| / 127; q = x / d, halves rounded away from zero."""
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(d)
    size = np.abs(scaled)
    whole = np.floor(size)
    q = np.copysign(whole + (size - whole >= 0.5), scaled).astype(np.int8)
    return np.concatenate([_half(d).view(np.uint8), q.view(np.uint8)], axis=1)


def _q4_0(x: np.ndarray) -> np.ndarray:
    """d = (the x of largest magnitude) / -8; q = x / d + 8."""
    d = _largest(x, axis=1) / np.float32(-8)
    q = np.minimum(x * _inverse(d) + np.float32(8.5), 15).astype(np.uint8)
    return np.concatenate([_half(d).view(np.uint8), q[:, :16] | q[:, 16:] << 4], axis=1)


def _q4_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * q - dmin * mn, with 4 bits for q, and 6 for sc and mn of each 32 values."""
    x = np.ascontiguousarray(x.reshape(-1, 8, 32).T)  # [values, groups, blocks]
    scales, minima = _fit_affine(x, 15)
    halves = _half(scales.max(axis=0) / 63), _half(minima.max(axis=0) / 63)
    d, dmin = (half.astype(np.float32) for half in halves)

    def encode(sc: np.ndarray, mn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes, and their squared error by group."""
        scale, minimum = d * sc, dmin * mn
        q = _round((x + minimum) * _inverse(scale), 0, 15)
        miss = scale * q
        miss -= minimum
        miss -= x
        return q, _dot(miss, miss)

    sc, mn = nearest = _round(scales * _inverse(d), 0, 63), _round(minima * _inverse(dmin), 0, 63)
    least = np.full_like(scales, np.inf)
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        near_sc, near_mn = np.clip(nearest[0] + i, 0, 63), np.clip(nearest[1] + j, 0, 63)
        error = encode(near_sc, near_mn)[1]
        better = error < least
        least, sc, mn = np.where(better, (error, near_sc, near_mn), (least, sc, mn))
    low, high = np.split(np.stack([sc.T, mn.T], axis=1).astype(np.uint8), 2, axis=2)
    packed = np.concatenate([(low | high >> 4 << 6).reshape(-1, 8), high[:, 0] & 15 | high[:, 1] << 4], axis=1)
    codes = encode(sc, mn)[0].T.astype(np.uint8)
    nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(-1, 128)
    return np.concatenate([np.stack(halves, axis=1).view(np.uint8), packed, nibbles], axis=1)


def _q6_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * (q - 32), with 6 bits for q, and 8 (signed) for sc of each 16 values."""
    x = np.ascontiguousarray(x.reshape(-1, 16, 16).T)  # [values, groups, blocks]
    scales = _fit_symmetric(x, 32)
    half = _half(_largest(scales, axis=0) / -128)[0]
    d = half.astype(np.float32)
    sc = _round(scales * _inverse(d), -128, 127)
    codes = (_round(x * _inverse(d * sc), -32, 31) + 32).T.astype(np.uint8)
    quarters = codes.reshape(-1, 2, 4, 32)
    low = (quarters[:, :, :2] & 15 | quarters[:, :, 2:] << 4).reshape(-1, 128)
    high = (quarters >> 4 << np.array([[0], [2], [4], [6]], np.uint8)).sum(axis=2, dtype=np.uint8).reshape(-1, 64)
    return np.concatenate([low, high, sc.T.astype(np.int8).view(np.uint8), half[:, None].view(np.uint8)], axis=1)


def _fit_affine(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """For each group of values along axis 0, the s >= 0 and m >= 0 of least squared error in x = s * q - m with q in
    0..levels: the best of a few roundings, each with its solution of the normal equations. Returns s and m.
    """
    n = len(x)
    low = np.minimum(x.min(axis=0), 0)
    inverse = _inverse(x.max(axis=0) - low)
    sum_x, sum_xx = x.sum(axis=0), _dot(x, x)
    least = np.full(sum_x.shape, np.inf)
    scales, minima = np.zeros_like(least), np.zeros_like(least)
    for step in np.linspace(-1, 1, 7, dtype=np.float32):
        q = _round((x - low) * (inverse * (levels + step)), 0, levels)
        sum_q, sum_qq, sum_xq = q.sum(axis=0), _dot(q, q), _dot(x, q)
        det = n * sum_qq - sum_q * sum_q
        m = _ratio(sum_q * sum_xq - sum_qq * sum_x, det)
        free = (det > 0) & (m >= 0)
        s = np.where(free, _ratio(n * sum_xq - sum_q * sum_x, det), _ratio(sum_xq, sum_qq))
        m = np.where(free, m, np.where(sum_qq == 0, np.maximum(-sum_x / n, 0), 0))
        error = sum_xx + s * (s * sum_qq - 2 * sum_xq) + m * (n * m + 2 * (sum_x - s * sum_q))
        least, scales, minima = np.where(error < least, (error, s, m), (least, scales, minima))
    return scales, minima


def _fit_symmetric(x: np.ndarray, levels: int) -> np.ndarray:
    """For each group of values along axis 0, the s of least squared error in x = s * q with q in -levels..levels-1."""
    inverse = _inverse(-_largest(x, axis=0)[0])
    most = np.full(x.shape[1:], -1.0)
    scales = np.zeros_like(most)
    for step in np.linspace(-4, 1, 11, dtype=np.float32):
        q = _round(x * (inverse * (levels + step)), -levels, levels - 1)
        sum_xq = _dot(x, q)
        s = _ratio(sum_xq, _dot(q, q))
        gain = s * sum_xq  # What s * q takes off the sum of x^2.
        most, scales = np.where(gain > most, (gain, s), (most, scales))
    return scales


def _largest(x: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude along an axis, which is kept."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=axis, keepdims=True), axis=axis)


def _round(x: np.ndarray, low: int, high: int) -> np.ndarray:
    """Round to integers in low..high, as float32."""
    q = np.rint(x, dtype=np.float32, casting="same_kind")
    return np.clip(q, low, high, out=q)


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums of products along axis 0, as float64 for what is computed of them."""
    return np.einsum("i...,i...", x, y).astype(np.float64)


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.divide(x, y, out=np.zeros_like(x), where=y != 0)


def _inverse(x: np.ndarray) -> np.ndarray:
    """1 / x as float32; 0 where x is so small that as a 16-bit scale it is 0 anyway."""
    x = x.astype(np.float32)
    return np.divide(1, x, out=np.zeros_like(x), where=np.abs(x) > _SMALLEST)


def _half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{np.abs(x).max():g} is too large for a 16-bit float (65504 at most)")
    return half


QUANTIZERS: dict[Format, Callable[[np.ndarray], np.ndarray]] = {
    Format.F32: _f32,
    Format.F16: _f16,
    Format.BF16: _bf16,
    Format.Q8_0: _q8_0,
    Format.Q4_0: _q4_0,
    Format.Q4_K: _q4_k,
    Format.Q6_K: _q6_k,
}
"""float32 `[blocks, values]` -> uint8 `[blocks, bytes]`."""
