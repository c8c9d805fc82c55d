"""Log-probabilities of the unmodified logits and of what the stages leave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sampling.rows import logits_of, row
from trivet import _native
from trivet.engine.request import TokenLogprob
from trivet.sampling.params import LLAMACPP_STAGES, TGI_STAGES, VLLM_STAGES
from trivet.sampling.sampler import sample


def report(logits: np.ndarray, **fields: Any) -> TokenLogprob:
    (found,) = sample(logits, [row(**fields)]).logprobs
    assert found is not None
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 5, 40, 5000, 2**40, -1]), st.sampled_from([211, 20_000]))
def test_raw_ones_are_those_of_the_unmodified_logits(data_seed: int, count: int, vocab: int) -> None:
    logits = np.random.default_rng(data_seed).normal(0, 4, (1, vocab)).astype(np.float32)
    got = report(logits, seed=1, temperature=0.7, top_k=40, logit_bias={5: 3.0}, logprobs=count)
    x = logits[0].astype(np.float64)
    want = x - x.max() - np.log(np.exp(x - x.max()).sum())
    assert got.logprob == pytest.approx(want[got.token], abs=1e-5)
    assert got.rank == 1 + (x > x[got.token]).sum()
    best = np.argsort(-x, kind="stable")[: vocab if count == -1 else count]
    assert [t for t, _ in got.top] == best.tolist()
    np.testing.assert_allclose([p for _, p in got.top], want[best], atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES]))
def test_processed_ones_are_those_of_what_is_left(data_seed: int, stages: tuple[str, ...]) -> None:
    logits = np.random.default_rng(data_seed).normal(0, 2, (1, 211)).astype(np.float32)
    fields = {
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.8,
        "logit_bias": {5: 3.0},
        "history": (3, 5),
        "stages": stages,
    }
    fields |= {"repetition_penalty": 1.4, "frequency_penalty": 0.3}
    got = report(logits, seed=data_seed, logprobs=5, logprobs_mode="processed", **fields)
    p = _native.probabilities(logits, [row(**fields)])[0]
    assert got.logprob == pytest.approx(math.log(p[got.token]), abs=1e-4)
    assert got.rank == 1 + (p > p[got.token]).sum()
    best = np.argsort(-p, kind="stable")[: min(5, int((p > 0).sum()))]
    np.testing.assert_allclose([math.exp(x) for _, x in got.top], p[best], rtol=1e-4)


def test_processed_ones_of_a_greedy_row_are_of_those_it_was_the_best_of() -> None:
    fields = {"temperature": 0, "logprobs": 4, "logprobs_mode": "processed", "history": (0,)}
    for more, expected in [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"frequency_penalty": 2.0, "stages": TGI_STAGES}, [0.3, 0.2, 0.1, 0.4 * math.exp(-2)]),
        ({"top_k": 2}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2, "stages": LLAMACPP_STAGES}, [0.4, 0.3]),
        ({"suppressed": (0,)}, [0.3, 0.2, 0.1]),
    ]:
        got = report(logits_of([0.4, 0.3, 0.2, 0.1]), **fields, **more)
        np.testing.assert_allclose([math.exp(x) for _, x in got.top], np.array(expected) / sum(expected), rtol=1e-4)
        assert got.rank == 1 and got.token == got.top[0][0]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (2, [0, 3]), (3, [0, 3, 1, 4]), (4, [0, 3, 1, 4]), (5, [0, 3, 1, 4, 2])]
)
@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0, "logit_bias": {0: 0.5}}, {"top_p": 0.999}])
def test_ties_are_reported_beyond_the_number_asked_for(count: int, expected: list[int], fields: dict) -> None:
    """TGI's own vector."""
    logits = np.array([[-1, -3, -4, -2, -3]], np.float32)
    got = report(logits, logprobs=count, logprobs_mode="processed", stages=TGI_STAGES, **fields)
    assert [token for token, _ in got.top] == expected
    raw = report(logits, logprobs=count, **fields)
    assert [token for token, _ in raw.top] == expected[:count]


def test_ids_may_be_asked_for_instead_of_the_best() -> None:
    fields = {"temperature": 0, "logprob_token_ids": [2, 0, 77]}
    got = report(logits_of([0.1, 0.6, 0.3]), **fields)
    assert got.token == 1
    assert got.top[:2] == [(2, pytest.approx(math.log(0.3))), (0, pytest.approx(math.log(0.1)))]
    processed = report(logits_of([0.1, 0.6, 0.3]), logprobs_mode="processed", suppressed=(0,), **fields)
    assert processed.top[:2] == [(2, pytest.approx(math.log(1 / 3))), (0, -math.inf)]


@pytest.mark.parametrize("mode", ["raw", "processed"])
def test_target_is_scored_not_drawn(mode: str) -> None:
    fields = {"target": 1, "prompt_logprobs": 1, "temperature": 0.1, "logprob_token_ids": [0], "logprobs_mode": mode}
    got = report(logits_of([0.1, 0.2, 0.7]), **fields)
    assert (got.token, got.rank, got.logprob) == (1, 2, pytest.approx(math.log(0.2), abs=1e-6))
    assert got.top == [(2, pytest.approx(math.log(0.7), abs=1e-6))]
