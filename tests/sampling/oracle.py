"""The stages in numpy and float64, over whole vocabularies, as their formulas are written down."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from trivet.engine.plan import SampleRow
from trivet.sampling.params import SamplingParams


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def distribution(logits: np.ndarray, row: SampleRow) -> np.ndarray:
    """What is left of a row, but for what depends on chance: xtc is taken to strike."""
    x = logits.astype(np.float64)
    history = row.history.tolist()
    for stage in row.chain.params.stages:
        x = STAGES[stage](x, row.chain.params, history, row.prompt_len)
    return softmax(x)


def keep(x: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    return np.where(np.isin(np.arange(len(x)), order[:count]), x, -np.inf)


def left(x: np.ndarray) -> int:
    return int(np.isfinite(x).sum())


def temperature(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    t = p.temperature
    if p.dynatemp_range > 0 and left(x) > 1:
        q = softmax(x)[np.isfinite(x)]
        q = q[q > 0]
        share = -(q * np.log(q)).sum() / math.log(left(x))
        low, high = max(0.0, t - p.dynatemp_range), t + p.dynatemp_range
        t = low + (high - low) * share**p.dynatemp_exponent
    return x / t


def top_k(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    return keep(x, np.argsort(-x, kind="stable"), max(p.top_k, p.min_keep)) if p.top_k > 0 else x


def tgi_top_k(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    if p.top_k <= 0:
        return x
    return np.where(x >= np.sort(x)[-min(max(p.top_k, p.min_keep), len(x))], x, -np.inf)


def top_p(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    if p.top_p >= 1:
        return x
    q = softmax(x)
    order = np.argsort(-q, kind="stable")
    count = int(np.searchsorted(np.cumsum(q[order]), p.top_p)) + 1
    return keep(x, order, max(count, p.min_keep))


def min_p(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    if p.min_p <= 0:
        return x
    count = int((x >= x.max() + math.log(p.min_p)).sum())
    return keep(x, np.argsort(-x, kind="stable"), max(count, p.min_keep))


def typical_p(x: np.ndarray, p: SamplingParams, *_: object, ties: bool = False) -> np.ndarray:
    if p.typical_p >= 1:
        return x
    q = softmax(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(q)
        distance = np.abs(surprise - np.nansum(q * np.where(q > 0, surprise, 0)))
    order = np.argsort(distance, kind="stable")
    count = int(np.searchsorted(np.cumsum(q[order]), p.typical_p, side="left" if ties else "right")) + 1
    count = min(max(count, p.min_keep), left(x))
    return np.where(distance <= distance[order[count - 1]], x, -np.inf) if ties else keep(x, order, count)


def tgi_typical_p(x: np.ndarray, p: SamplingParams, *rest: object) -> np.ndarray:
    return typical_p(x, p, *rest, ties=True)


def top_n_sigma(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    finite = x[np.isfinite(x)]
    return np.where(x >= x.max() - p.top_n_sigma * finite.std(), x, -np.inf) if p.top_n_sigma > 0 else x


def xtc(x: np.ndarray, p: SamplingParams, *_: object) -> np.ndarray:
    if p.xtc_probability == 0 or p.xtc_threshold > 0.5:
        return x
    q = softmax(x)
    order = np.argsort(-x, kind="stable")
    drop = int((q >= p.xtc_threshold).sum()) - 1
    return keep(x, order[drop:], len(x)) if drop > 0 and left(x) - drop >= p.min_keep else x


def penalties(x: np.ndarray, p: SamplingParams, history: list[int], prompt_len: int) -> np.ndarray:
    x = x.copy()
    output = history[prompt_len:]
    if p.penalty_last_n >= 0:
        history = output = history[len(history) - min(p.penalty_last_n, len(history)) :]
    for token in set(history):
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
    for token, count in Counter(output).items():
        x[token] -= count * p.frequency_penalty + p.presence_penalty
    return x


def tgi_penalties(x: np.ndarray, p: SamplingParams, history: list[int], *_: object) -> np.ndarray:
    x = x.copy()
    for token, count in Counter(history).items():
        x[token] = x[token] * p.repetition_penalty if x[token] < 0 else x[token] / p.repetition_penalty
        x[token] -= p.frequency_penalty * count / len(history)
    return x


def dry(x: np.ndarray, p: SamplingParams, history: list[int], *_: object) -> np.ndarray:
    """Without breakers."""
    if p.dry_multiplier == 0 or p.dry_base < 1:
        return x
    x = x.copy()
    window = history if p.dry_penalty_last_n < 0 else history[max(0, len(history) - p.dry_penalty_last_n) :]
    longest: dict[int, int] = {}
    for at in range(1, len(window)):
        length = 0
        while length < at and window[at - 1 - length] == window[-1 - length]:
            length += 1
        if length >= p.dry_allowed_length:
            longest[window[at]] = max(length, longest.get(window[at], 0))
    for token, length in longest.items():
        x[token] -= p.dry_multiplier * p.dry_base ** (length - p.dry_allowed_length)
    return x


STAGES = {
    stage.__name__: stage
    for stage in (
        *(temperature, top_k, tgi_top_k, top_p, min_p, typical_p, tgi_typical_p, top_n_sigma, xtc),
        *(penalties, tgi_penalties, dry),
    )
} | {"infill": lambda x, *_: x, "adaptive_p": lambda x, *_: x, "watermark": lambda x, *_: x}
