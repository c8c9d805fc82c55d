"""Draws, mirostat and adaptive_p: what is chosen, how often, and the state that is handed on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.sampling.oracle import softmax
from tests.sampling.rows import logits_of, row
from trivet.sampling.sampler import sample


def chi_squared(tokens: np.ndarray, expected: np.ndarray) -> float:
    """Of draws against probabilities; those of zero must not come."""
    counts = np.bincount(tokens, minlength=len(expected))
    assert not counts[expected == 0].any()
    wanted = len(tokens) * expected[expected > 0]
    return float(((counts[expected > 0] - wanted) ** 2 / wanted).sum())


def draws(weights: np.ndarray, count: int, **fields: Any) -> np.ndarray:
    logits = np.repeat(np.log(weights.astype(np.float32))[None], count, 0)
    one = row(**fields)
    return sample(logits, [replace(one, seed=seed) for seed in range(count)]).tokens


def test_draws_follow_the_distribution() -> None:
    weights = np.array([0.5, 0.25, 0.15, 0.08, 0.02])
    assert chi_squared(draws(weights, 20_000), weights) < 20  # 4 degrees of freedom: p < 0.001


def test_positions_draw_independently() -> None:
    logits = np.zeros((1000, 2), dtype=np.float32)
    tokens = sample(logits, [row(seed=7, history=(0,) * i) for i in range(1000)]).tokens
    assert 400 < tokens.sum() < 600
    assert 400 < (tokens[1:] != tokens[:-1]).sum() < 600


def mirostat_keeps(version: int, p: np.ndarray, mu: float) -> int:
    """How many of the probabilities p, falling, are drawn from."""
    if version == 2:
        return max(1, int((-np.log2(p) <= mu).sum()))
    m = min(100, len(p))
    t = np.log(np.arange(2, m + 1) / np.arange(1, m))
    s = (t * np.log(p[: m - 1] / p[1:m])).sum() / (t * t).sum()
    k = (((s - 1) * 2**mu) / (1 - len(p) ** (1 - s))) ** (1 / s)
    return max(1, int(min(k, len(p))))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2]),
    st.sampled_from([2, 30, 1000]),
    st.sampled_from([0.5, 3.0, 8.0]),
    st.sampled_from([0.1, 1.0]),
    st.none() | st.sampled_from([0.01, 2.0, 20.0]),
)
def test_mirostat_chooses_and_learns(
    seed: int, version: int, vocab: int, tau: float, eta: float, mu: float | None
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (1, vocab)).astype(np.float32)
    state = () if mu is None else (mu, 0.0)
    # The list of stages is replaced: top_k does nothing, the temperature does.
    fields = {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta, "top_k": 1, "temperature": 0.7}
    out = sample(logits, [row(seed=seed, state=state, **fields)])
    mu = 2 * tau if mu is None else mu
    p = softmax(logits[0].astype(np.float64) / 0.7)
    order = np.argsort(-p)
    kept = mirostat_keeps(version, p[order], mu)
    token = int(out.tokens[0])
    assert token in order[:kept]
    learned = mu - eta * (-math.log2(p[token] / p[order[:kept]].sum()) - tau)
    assert out.states[0] == (pytest.approx(learned, abs=1e-4), 0.0)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_draws_from_what_it_keeps(version: int) -> None:
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    kept = mirostat_keeps(version, p, 2.0)
    assert 1 < kept < 5
    expected = np.where(np.arange(5) < kept, p, 0)
    found = draws(p, 5000, mirostat=version, state=(2.0, 0.0))
    assert chi_squared(found, expected / expected.sum()) < 14


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_mirostat_comes_to_the_surprise_that_was_asked_for(version: int, tau: float) -> None:
    rng = np.random.default_rng(3)
    state: tuple[float, ...] = ()
    surprises = []
    for step in range(600):
        logits = rng.normal(0, 2, (1, 500)).astype(np.float32)
        r = row(seed=1, history=(0,) * step, mirostat=version, mirostat_tau=tau, state=state)
        out = sample(logits, [r])
        state = out.states[0]
        surprises.append(-math.log2(softmax(logits[0].astype(np.float64))[out.tokens[0]]))
    # The controller sees the surprise after cutting, which is somewhat less than that before.
    assert tau - 0.5 < np.mean(surprises[100:]) < tau + 2


def adapted(p: np.ndarray, target: float, state: tuple[float, ...]) -> np.ndarray:
    distance = np.abs(p - np.clip(2 * target - state[0] / state[1], 0, 1)) / 0.3
    return softmax(5 - 10 * distance**2 / (1 + distance))


@pytest.mark.parametrize("state", [(), (2.0, 7.0), (6.0, 7.0)])
def test_adaptive_p_prefers_what_is_near_the_target(state: tuple[float, ...]) -> None:
    p = np.array([0.5, 0.25, 0.15, 0.1])
    fields = {"adaptive_target": 0.3, "adaptive_decay": 0.8, "stages": ("adaptive_p",), "state": state}
    before = state or (0.3 / 0.2, 1 / 0.2)
    assert chi_squared(draws(p, 5000, **fields), adapted(p, 0.3, before)) < 16
    out = sample(logits_of(p.tolist()), [row(**fields)])
    after = (0.8 * before[0] + p[out.tokens[0]], 0.8 * before[1] + 1)
    assert out.states[0] == pytest.approx(after, rel=1e-6)


def test_adaptive_p_chooses_last_of_all_wherever_it_stands() -> None:
    fields = {"adaptive_target": 0.5, "top_k": 2}
    p = np.array([0.5, 0.25, 0.15, 0.1])
    first = draws(p, 200, stages=("adaptive_p", "top_k"), **fields)
    assert (first == draws(p, 200, stages=("top_k", "adaptive_p"), **fields)).all()
    assert set(first) == {0, 1}


@pytest.mark.parametrize("fields", [{}, {"adaptive_target": 0.5}, {"adaptive_target": -1.0, "stages": ("adaptive_p",)}])
def test_other_choices_leave_no_state(fields: dict[str, Any]) -> None:
    fields = {"stages": ("temperature",)} | fields
    assert sample(logits_of([0.5, 0.5]), [row(**fields)]).states == {}


@pytest.mark.parametrize("fields", [{"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.5}])
def test_temperature_zero_is_greedy_whatever_chooses(fields: dict[str, Any]) -> None:
    assert sample(logits_of([0.3, 0.4, 0.3]), [row(temperature=0, **fields)]).tokens == [1]


@given(st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 1, 2]))
def test_row_does_not_depend_on_its_batch(data_seed: int, seed: int, mirostat: int) -> None:
    logits = np.random.default_rng(data_seed).normal(0, 2, (5, 97)).astype(np.float32)
    fields = {"top_p": 0.9, "repetition_penalty": 1.3, "xtc_probability": 0.5, "dry_multiplier": 0.8, "watermark": True}
    rows = [row(seed=seed, history=(i, 3, i), logprobs=3, mirostat=mirostat, **fields) for i in range(5)]
    together = sample(logits, rows)
    for i in range(5):
        alone = sample(logits[i : i + 1], rows[i : i + 1])
        assert alone.tokens[0] == together.tokens[i]
        assert alone.logprobs[0] == together.logprobs[i]
        assert alone.states.get(0) == together.states.get(i)
    assert len(together.states) == (5 if mirostat else 0)
