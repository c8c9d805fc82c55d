"""The native sampler against a plain float64 one and against published vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet import _native
from trivet.engine.plan import SampleRow
from trivet.sampling.chain import sample
from trivet.sampling.params import LLAMACPP_STAGES, STAGES, TGI_STAGES, VLLM_STAGES, SamplingParams


def row(seed: int = 0, history: tuple[int, ...] = (), prompt_len: int = 0, **fields: Any) -> SampleRow:
    target, suppressed = fields.pop("target", -1), fields.pop("suppressed", ())
    ids = np.array(history, dtype=np.int32)
    return SampleRow(SamplingParams(**fields), seed, len(ids), prompt_len, ids, target, suppressed)


def probabilities(weights: list[float], **fields: Any) -> np.ndarray:
    logits = np.log(np.array([weights], dtype=np.float32))
    return _native.probabilities(logits, [row(**fields)])[0]


# llama.cpp's published vectors for single stages.
@pytest.mark.parametrize(
    ("weights", "fields", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], {"top_k": 3}, [0, 0.2222, 0.3333, 0.4444]),
        ([0.1, 0.2, 0.3, 0.4], {"top_k": 1}, [0, 0, 0, 1]),
        ([0.1, 0.2, 0.3, 0.4], {"top_p": 0.7}, [0, 0, 0.4286, 0.5714]),
        ([0.1, 0.2, 0.3, 0.4], {"top_p": 0.8}, [0, 0.2222, 0.3333, 0.4444]),
        ([0.1, 0.2, 0.3, 0.4], {"top_p": 1e-6}, [0, 0, 0, 1]),
        ([0.1, 0.2, 0.3, 0.4], {"min_p": 0.26}, [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
        ([0.1, 0.2, 0.3, 0.4], {"min_p": 0.51}, [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
        ([0.1, 0.2, 0.3, 0.4], {"min_p": 0.76}, [0, 0, 0, 1]),
        ([0.97, 0.01, 0.01, 0.01], {"typical_p": 0.5}, [1, 0, 0, 0]),
        ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.5}, [0, 1 / 3, 1 / 3, 1 / 3]),
        ([0.2] * 5, {"repetition_penalty": 50, "history": (0, 1, 2)}, [0, 0, 0, 0.5, 0.5]),
        (
            [0.2] * 5,
            {"frequency_penalty": 2, "presence_penalty": 2, "history": (0, 0)},
            np.array([math.exp(-6), 1, 1, 1, 1]) / (4 + math.exp(-6)),
        ),
        ([0.25] * 4, {"logit_bias": {2: math.log(2)}}, [0.2, 0.2, 0.4, 0.2]),
        ([0.25] * 4, {"allowed_token_ids": [1, 3, 99]}, [0, 0.5, 0, 0.5]),
        ([0.25] * 4, {"suppressed": (0, 1, 99)}, [0, 0, 0.5, 0.5]),
        ([0.1, 0.4, 0.25, 0.25], {"temperature": 0.0}, [0, 1, 0, 0]),
        ([0.1, 0.4, 0.4, 0.1], {"temperature": 0.0}, [0, 1, 0, 0]),
    ],
)
def test_stage(weights: list[float], fields: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(probabilities(weights, **fields), expected, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e308},
        {"logit_bias": {0: 1e39, 1: -1e39}},
        {"logit_bias": {0: 3e38}, "temperature": 1e-5},
        {"temperature": 1e308},
        {"frequency_penalty": -2.0, "presence_penalty": 2.0, "repetition_penalty": 1e-30, "temperature": 2e-5},
    ],
    ids=str,
)
@pytest.mark.parametrize("stages", [VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES])
def test_parameters_beyond_float32(fields: dict[str, Any], stages: tuple[str, ...]) -> None:
    """Whatever they do to the logits, a token comes out."""
    logits = np.array([[0.0, 5.0, -5.0, 0.0]], dtype=np.float32)
    narrow = {"top_k": 3, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.01, "stages": stages}
    for temperature in (fields.get("temperature", 1.0), 0.0):
        rows = [row(history=(0, 1, 2, 2), **narrow | fields | {"temperature": temperature})]
        output = sample(logits, rows)
        assert output.errors == [None] and 0 <= output.tokens[0] < 4
        distribution = _native.probabilities(logits, rows)[0]
        assert np.isfinite(distribution).all() and distribution.sum() == pytest.approx(1)


def test_penalties_count_the_prompt_for_repetition_only() -> None:
    fields = {"history": (0, 1), "prompt_len": 1, "presence_penalty": 1.0}
    p = probabilities([0.25] * 4, **fields)
    assert p[0] == p[2] == p[3] > p[1]
    windowed = probabilities([0.25] * 4, **fields, penalty_last_n=2)
    assert windowed[0] == windowed[1] < windowed[2]


def reference(logits: np.ndarray, r: SampleRow) -> np.ndarray:
    """The chain in float64, one stage after another over the whole vocabulary."""
    p, x = r.params, logits.astype(np.float64)

    def softmax() -> np.ndarray:
        e = np.exp(x - x.max())
        return e / e.sum()

    def keep(order: np.ndarray, mass: float, probs: np.ndarray) -> np.ndarray:
        count = int(np.searchsorted(np.cumsum(probs[order]), mass)) + 1
        return np.where(np.isin(np.arange(len(x)), order[:count]), x, -np.inf)

    for stage in p.stages:
        if stage == "temperature":
            x = x / p.temperature
        elif stage == "top_k" and p.top_k > 0:
            x = np.where(x >= np.sort(x)[-min(p.top_k, len(x))], x, -np.inf)
        elif stage == "top_p" and p.top_p < 1:
            probs = softmax()
            x = keep(np.argsort(-probs, kind="stable"), p.top_p, probs)
        elif stage == "min_p" and p.min_p > 0:
            x = np.where(x >= x.max() + math.log(p.min_p), x, -np.inf)
        elif stage == "typical_p" and p.typical_p < 1:
            probs = softmax()
            with np.errstate(divide="ignore", invalid="ignore"):
                surprise = -np.log(probs)
                entropy = np.nansum(probs * np.where(probs > 0, surprise, 0))
            order = np.argsort(np.abs(surprise - entropy), kind="stable")
            x = keep(order, p.typical_p, probs)
    return softmax()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 50, 300, 1000]),
    st.floats(0.3, 2),
    st.integers(0, 60),
    st.floats(0.05, 1),
    st.floats(0, 0.5),
    st.floats(0.05, 1),
    st.one_of(st.sampled_from([VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES]), st.permutations(STAGES).map(tuple)),
)
def test_chain_equals_reference(
    seed: int, vocab: int, temperature: float, k: int, top_p: float, min_p: float, typical: float, stages: Any
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (1, vocab)).astype(np.float32)
    r = row(temperature=temperature, top_k=k, top_p=top_p, min_p=min_p, typical_p=typical, stages=stages)
    got, want = _native.probabilities(logits, [r])[0], reference(logits[0], r)
    # At a border of the kept set float32 and float64 may differ by one candidate.
    both = (got > 0) & (want > 0)
    assert abs(int((got > 0).sum()) - int((want > 0).sum())) <= 1
    np.testing.assert_allclose(got[both] / got[both].sum(), want[both] / want[both].sum(), rtol=1e-4)


def test_draws_follow_the_distribution() -> None:
    weights = np.array([0.5, 0.25, 0.15, 0.08, 0.02], dtype=np.float32)
    draws = 20_000
    logits = np.repeat(np.log(weights)[None], draws, 0)
    counts = np.bincount(sample(logits, [row(seed=i) for i in range(draws)]).tokens, minlength=5)
    chi2 = ((counts - draws * weights) ** 2 / (draws * weights)).sum()
    assert chi2 < 20  # 4 degrees of freedom: p < 0.001


def test_positions_draw_independently() -> None:
    logits = np.zeros((1000, 2), dtype=np.float32)
    tokens = sample(logits, [row(seed=7, history=(0,) * i) for i in range(1000)]).tokens
    assert 400 < tokens.sum() < 600
    assert 400 < (tokens[1:] != tokens[:-1]).sum() < 600


@given(st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**64 - 1))
def test_row_does_not_depend_on_its_batch(data_seed: int, seed: int) -> None:
    logits = np.random.default_rng(data_seed).normal(0, 2, (5, 97)).astype(np.float32)
    rows = [row(seed=seed, top_p=0.9, repetition_penalty=1.3, history=(i, 3), logprobs=3) for i in range(5)]
    together = sample(logits, rows)
    for i in range(5):
        alone = sample(logits[i : i + 1], rows[i : i + 1])
        assert alone.tokens[0] == together.tokens[i]
        assert alone.logprobs[0] == together.logprobs[i]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 5, -1]))
def test_logprobs_are_those_of_the_unmodified_logits(data_seed: int, count: int) -> None:
    logits = np.random.default_rng(data_seed).normal(0, 4, (1, 211)).astype(np.float32)
    out = sample(logits, [row(seed=1, temperature=0.7, top_k=40, logit_bias={5: 3.0}, logprobs=count)])
    x = logits[0].astype(np.float64)
    want = x - x.max() - np.log(np.exp(x - x.max()).sum())
    got = out.logprobs[0]
    assert got is not None
    assert got.logprob == pytest.approx(want[got.token], abs=1e-5)
    assert got.rank == 1 + (x > x[got.token]).sum()
    best = np.argsort(-x, kind="stable")[: 211 if count == -1 else count]
    assert [t for t, _ in got.top] == best.tolist()
    np.testing.assert_allclose([p for _, p in got.top], want[best], atol=1e-5)


def test_target_is_scored_not_drawn() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.7]], dtype=np.float32))
    out = sample(logits, [row(target=1, prompt_logprobs=0, temperature=0)])
    assert out.tokens[0] == 1
    assert out.logprobs[0] is not None
    assert (out.logprobs[0].rank, out.logprobs[0].logprob) == (2, pytest.approx(math.log(0.2), abs=1e-6))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_fail_their_row_only(bad: float) -> None:
    logits = np.zeros((3, 20), dtype=np.float32)
    logits[1, 13] = bad
    out = sample(logits, [row(temperature=0)] * 3)
    assert out.errors == [None, "non-finite logits", None]


def test_no_token_left_is_an_error() -> None:
    out = sample(np.zeros((1, 4), dtype=np.float32), [row(allowed_token_ids=[2], suppressed=(2,))])
    assert "no token is possible" in (out.errors[0] or "")


def test_bad_calls_raise() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1 sample rows"):
        sample(np.zeros((2, 4), dtype=np.float32), [row()])
