"""The formats with nested scales or uneven values: their blocks are found by search.

Least squares over a few roundings give a scale for each run of values; these are rounded to what the format can say,
and the nearest few of such scales are tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from trivet.weights.quantizers.arithmetic import dot, half, inverse, largest, least, nibbles, ratio, rounded

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""The values of IQ4_NL and IQ4_XS."""
_REACH = 150
_NEAREST = np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, (np.arange(-2 * _REACH, 2 * _REACH) + 0.5) / 2).astype(np.uint8)
"""The index of the nearest of IQ4 for every half step from -_REACH on: its midpoints are at whole and half ones."""


def q2_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * q - dmin * mn, with 2 bits for q, and 4 for sc and mn of each 16 values."""
    halves, sc, mn, codes = _affine_runs(x, 16, 3, 15)
    scales = sc.astype(np.uint8) | mn.astype(np.uint8) << 4
    return np.concatenate([scales, _two_bits(codes), halves], axis=1)


def q4_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * q - dmin * mn, with 4 bits for q, and 6 for sc and mn of each 32 values."""
    halves, sc, mn, codes = _affine_runs(x, 32, 15, 63)
    return np.concatenate([halves, _six_bits(sc, mn), _pairs_of_runs(codes)], axis=1)


def q5_k(x: np.ndarray) -> np.ndarray:
    """As Q4_K, with 5 bits for q."""
    halves, sc, mn, codes = _affine_runs(x, 32, 31, 63)
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([halves, _six_bits(sc, mn), high[:, 0], _pairs_of_runs(codes & 15)], axis=1)


def q3_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * q, with 3 bits for q + 4, and 6 for sc + 32 of each 16 values."""
    d, sc, codes = _symmetric_runs(x, 16, 4, 32, np.linspace(-1.2, 1.2, 13))
    quads = codes.reshape(-1, 8, 32)
    high = np.packbits(quads >> 2, axis=1, bitorder="little")
    scales = (sc + 32).astype(np.uint8)
    low = nibbles(scales & 15)
    top = (scales.reshape(-1, 4, 4) >> 4 << np.array([[0], [2], [4], [6]], np.uint8)).sum(axis=1, dtype=np.uint8)
    return np.concatenate([high[:, 0], _two_bits(codes & 3), low, top, d], axis=1)


def q6_k(x: np.ndarray) -> np.ndarray:
    """x = d * sc * q, with 6 bits for q + 32, and 8 (signed) for sc of each 16 values."""
    d, sc, codes = _symmetric_runs(x, 16, 32, 128, np.linspace(-4, 1, 11))
    quarters = codes.reshape(-1, 2, 4, 32)
    low = (quarters[:, :, :2] & 15 | quarters[:, :, 2:] << 4).reshape(-1, 128)
    high = (quarters >> 4 << np.array([[0], [2], [4], [6]], np.uint8)).sum(axis=2, dtype=np.uint8).reshape(-1, 64)
    return np.concatenate([low, high, sc.astype(np.int8).view(np.uint8), d], axis=1)


def iq4_nl(x: np.ndarray) -> np.ndarray:
    """x = d * IQ4[q]"""
    columns = np.ascontiguousarray(x.T)
    d = half(_fit_values(columns))
    codes = _codes(columns * inverse(d)).T
    return np.concatenate([d[:, None].view(np.uint8), nibbles(codes)], axis=1)


def iq4_xs(x: np.ndarray) -> np.ndarray:
    """x = d * sc * IQ4[q], with 6 bits for sc + 32 of each 32 values."""
    runs = _runs(x, 32)
    d, sc = _round_scales(runs, _fit_values(runs), 32, lambda scale: IQ4[_codes(runs * inverse(scale))])
    codes = _codes(runs * inverse(d.astype(np.float32) * sc))
    scales = (sc.T + 32).astype(np.uint16)
    low = (scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4).astype(np.uint8)
    high = (scales >> 4 << 2 * np.arange(8, dtype=np.uint16)).sum(axis=1, dtype=np.uint16)
    packed = [d[:, None].view(np.uint8), high[:, None].view(np.uint8), low]
    return np.concatenate([*packed, nibbles(codes.T).reshape(-1, 128)], axis=1)


def _codes(x: np.ndarray) -> np.ndarray:
    """The indices of the values of IQ4 that are nearest to x."""
    steps = np.floor(2 * x)
    return _NEAREST[np.clip(steps, -2 * _REACH, 2 * _REACH - 1, out=steps).astype(np.int16) + 2 * _REACH]


def _runs(x: np.ndarray, size: int) -> np.ndarray:
    """Blocks of 256 as `[values, runs, blocks]`."""
    return np.ascontiguousarray(x.reshape(-1, 256 // size, size).T)


def _two_bits(codes: np.ndarray) -> np.ndarray:
    """Four quarters of each half in the bits of 32 bytes."""
    quarters = codes.reshape(-1, 2, 4, 32)
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    return (quarters << shifts).sum(axis=2, dtype=np.uint8).reshape(-1, 64)


def _six_bits(sc: np.ndarray, mn: np.ndarray) -> np.ndarray:
    """Eight scales and minima of each block, in 12 bytes."""
    low, high = np.split(np.stack([sc, mn], axis=1).astype(np.uint8), 2, axis=2)
    return np.concatenate([(low | high >> 4 << 6).reshape(-1, 8), high[:, 0] & 15 | high[:, 1] << 4], axis=1)


def _pairs_of_runs(codes: np.ndarray) -> np.ndarray:
    return (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(-1, 128)


def _affine_runs(
    x: np.ndarray, size: int, levels: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Blocks as d * sc * q - dmin * mn, with q in 0..levels, and sc and mn in 0..most for each run of `size`.

    Returns the bytes of d and dmin, sc and mn `[blocks, runs]`, q uint8 `[blocks, runs, values]`.
    """
    runs = _runs(x, size)
    scales, minima = _fit_affine(runs, levels)
    halves = half(scales.max(axis=0) / most), half(minima.max(axis=0) / most)
    d, dmin = (value.astype(np.float32) for value in halves)

    def encode(sc: np.ndarray, mn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes, and their squared error by run."""
        scale, minimum = d * sc, dmin * mn
        q = rounded((runs + minimum) * inverse(scale), 0, levels)
        miss = scale * q
        miss -= minimum
        miss -= runs
        return q, dot(miss, miss)

    centre = rounded(scales * inverse(d), 0, most), rounded(minima * inverse(dmin), 0, most)
    near = [
        (np.clip(centre[0] + i, 0, most), np.clip(centre[1] + j, 0, most))
        for i, j in itertools.product((-1, 0, 1), repeat=2)
    ]
    _, sc, mn = least(*((encode(sc, mn)[1], sc, mn) for sc, mn in near))
    return np.stack(halves, axis=1).view(np.uint8), sc.T, mn.T, encode(sc, mn)[0].T.astype(np.uint8)


def _symmetric_runs(
    x: np.ndarray, size: int, levels: int, most: int, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks as d * sc * q, with q in -levels..levels - 1, and sc in -most..most - 1 for each run of `size`.

    Returns the bytes of d, sc `[blocks, runs]`, q + levels as uint8 `[blocks, runs, values]`.
    """
    runs = _runs(x, size)

    def integers(scale: np.ndarray) -> np.ndarray:
        return rounded(runs * inverse(scale), -levels, levels - 1)

    d, sc = _round_scales(runs, _fit_symmetric(runs, levels, steps), most, integers)
    codes = (integers(d.astype(np.float32) * sc) + levels).T.astype(np.uint8)
    return d[:, None].view(np.uint8), sc.T, codes


def _round_scales(
    runs: np.ndarray, scales: np.ndarray, most: int, integers: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The float16 d of each block, and of the integers near scales / d the ones of least error. `integers(scale)` are
    what x / scale is rounded to.
    """
    d = half(largest(scales, axis=0)[0] / -most)

    def error(sc: np.ndarray) -> np.ndarray:
        scale = d.astype(np.float32) * sc
        miss = scale * integers(scale) - runs
        return dot(miss, miss)

    centre = rounded(scales * inverse(d), -most, most - 1)
    near = [centre, *(np.clip(centre + i, -most, most - 1) for i in (-1, 1))]
    return d, least(*((error(sc), sc) for sc in near))[1]


def _fit_affine(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """For each group of values along axis 0, the s >= 0 and m >= 0 of least squared error in x = s * q - m with q in
    0..levels: the best of a few roundings, each with its solution of the normal equations. Returns s and m.
    """
    n = len(x)
    low = np.minimum(x.min(axis=0), 0)
    inverse_span = inverse(x.max(axis=0) - low)
    sum_x, sum_xx = x.sum(axis=0), dot(x, x)
    best: tuple[np.ndarray, ...] = np.full(sum_x.shape, np.inf), np.zeros(sum_x.shape), np.zeros(sum_x.shape)
    for step in np.linspace(-1, 1, 7, dtype=np.float32):
        q = rounded((x - low) * (inverse_span * (levels + step)), 0, levels)
        sum_q, sum_qq, sum_xq = q.sum(axis=0), dot(q, q), dot(x, q)
        det = n * sum_qq - sum_q * sum_q
        m = ratio(sum_q * sum_xq - sum_qq * sum_x, det)
        free = (det > 0) & (m >= 0)
        s = np.where(free, ratio(n * sum_xq - sum_q * sum_x, det), ratio(sum_xq, sum_qq))
        m = np.where(free, m, np.where(sum_qq == 0, np.maximum(-sum_x / n, 0), 0))
        error = sum_xx + s * (s * sum_qq - 2 * sum_xq) + m * (n * m + 2 * (sum_x - s * sum_q))
        best = least(best, (error, s, m))
    return best[1], best[2]


def _fit_symmetric(x: np.ndarray, levels: int, steps: np.ndarray) -> np.ndarray:
    """For each group of values along axis 0, the s of least squared error in x = s * q with q in -levels..levels-1,
    among roundings that take the largest x to levels + step.
    """
    inverse_peak = inverse(-largest(x, axis=0)[0])
    return _fit_scale(
        x, (rounded(x * (inverse_peak * np.float32(levels + step)), -levels, levels - 1) for step in steps)
    )


def _fit_values(x: np.ndarray) -> np.ndarray:
    """The same in x = s * v with v of IQ4."""
    inverse_peak = inverse(-largest(x, axis=0)[0])
    sizes = [*np.arange(99, 142, 6), *np.arange(-127, -98, 7)]
    return _fit_scale(x, (IQ4[_codes(x * (inverse_peak * np.float32(size)))] for size in sizes))


def _fit_scale(x: np.ndarray, roundings: Iterable[np.ndarray]) -> np.ndarray:
    """The s of least squared error in x = s * q, for the best of several q."""
    best: tuple[np.ndarray, ...] = np.full(x.shape[1:], 1.0), np.zeros(x.shape[1:])
    for q in roundings:
        sum_xq = dot(x, q)
        s = ratio(sum_xq, dot(q, q))
        best = least(best, (-s * sum_xq, s))  # What s * q takes off the sum of x^2.
    return best[1]
