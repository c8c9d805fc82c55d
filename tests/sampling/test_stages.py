"""Each stage against the vectors its makers publish, and whole chains against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.oracle import distribution
from tests.sampling.rows import probabilities, row
from trivet import _native
from trivet.sampling.params import LLAMACPP_STAGES, STAGES, TGI_STAGES, VLLM_STAGES
from trivet.sampling.sampler import sample

TENTHS = [0.1, 0.2, 0.3, 0.4]
FALLING = [0.4, 0.3, 0.2, 0.1]


def shares(*weights: float) -> list[float]:
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("weights", "fields", "expected"),
    [
        # llama.cpp's own vectors.
        (TENTHS, {"top_k": 3}, shares(0, 0.2, 0.3, 0.4)),
        (TENTHS, {"top_k": 1}, [0, 0, 0, 1]),
        (TENTHS, {"top_k": 4}, TENTHS),
        (TENTHS, {"top_k": 0}, TENTHS),
        (TENTHS, {"top_p": 1e-6}, [0, 0, 0, 1]),
        (TENTHS, {"top_p": 0.7}, shares(0, 0, 0.3, 0.4)),
        (TENTHS, {"top_p": 0.8}, shares(0, 0.2, 0.3, 0.4)),
        (TENTHS, {"top_p": 1.0}, TENTHS),
        (TENTHS, {"min_p": 0.0}, TENTHS),
        (TENTHS, {"min_p": 0.26}, shares(0, 0.2, 0.3, 0.4)),
        (TENTHS, {"min_p": 0.51}, shares(0, 0, 0.3, 0.4)),
        (TENTHS, {"min_p": 0.76}, [0, 0, 0, 1]),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.09}, [0, 0, 0, 1]),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.19}, shares(0, 0, 0.2, 0.1)),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.29}, shares(0, 0.3, 0.2, 0.1)),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.39}, FALLING),
        ([0.97, 0.01, 0.01, 0.01], {"typical_p": 0.5}, [1, 0, 0, 0]),
        ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.5}, shares(0, 1, 1, 1)),
        ([0.2] * 5, {"repetition_penalty": 50, "history": (0,)}, shares(0, 1, 1, 1, 1)),
        ([0.2] * 5, {"repetition_penalty": 50, "history": (0, 1, 2)}, shares(0, 0, 0, 1, 1)),
        ([0.2] * 5, {"repetition_penalty": 50, "history": (0, 1, 2, 0, 0)}, shares(0, 0, 0, 1, 1)),
        ([0.25] * 4, {"dry_multiplier": 1.0, "dry_base": 1.1, "history": (0, 1)}, [0.25] * 4),
        (
            [0.25] * 4,
            {"dry_multiplier": 1.0, "dry_base": 1.1, "dry_penalty_last_n": 5, "history": (0, 1, 2, 0, 1)},
            [0.296923, 0.296923, 0.109232, 0.296923],
        ),
        (
            [0.2] * 5,
            {"dry_multiplier": 2.0, "dry_base": 1.1, "history": (0, 1, 2, 0, 1)},
            [0.241818, 0.241818, 0.032727, 0.241818, 0.241818],
        ),
        (TENTHS, {"top_n_sigma": 1.0}, [0, 0, 0.428571, 0.571429]),
        (TENTHS, {"top_n_sigma": 0.0}, TENTHS),
        (TENTHS, {"top_n_sigma": 3.0}, TENTHS),
        (TENTHS, {"temperature": 0.0}, [0, 0, 0, 1]),
        (TENTHS, {"temperature": 0.5}, shares(1, 4, 9, 16)),
        (
            [0.2] * 5,
            {"frequency_penalty": 5, "presence_penalty": 5, "history": (0,)},
            [1.1e-5, 0.249997, 0.249997, 0.249997, 0.249997],
        ),
        (
            [0.2] * 5,
            {"frequency_penalty": 2, "presence_penalty": 2, "history": (0, 0)},
            shares(math.exp(-6), 1, 1, 1, 1),
        ),
        # Equal ones: cut by id, or kept in TGI's stages.
        ([0.2, 0.4, 0.2, 0.2], {"top_k": 2}, shares(1, 2, 0, 0)),
        ([0.2, 0.4, 0.2, 0.2], {"top_k": 2, "stages": TGI_STAGES}, [0.2, 0.4, 0.2, 0.2]),
        ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.1}, [0, 1, 0, 0]),
        ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.1, "stages": TGI_STAGES}, shares(0, 1, 1, 1)),
        ([0.25] * 4, {"typical_p": 0.5}, shares(1, 1, 1, 0)),
        # TGI's frequency is that in prompt and output, by their length.
        (
            [0.25] * 4,
            {"frequency_penalty": 2, "history": (0, 0, 1, 9), "prompt_len": 2, "stages": TGI_STAGES},
            shares(math.exp(-1), math.exp(-0.5), 1, 1),
        ),
        # min_keep.
        (TENTHS, {"top_k": 1, "min_keep": 2}, shares(0, 0, 0.3, 0.4)),
        (TENTHS, {"top_p": 0.1, "min_keep": 3}, shares(0, 0.2, 0.3, 0.4)),
        (TENTHS, {"min_p": 1.0, "min_keep": 2}, shares(0, 0, 0.3, 0.4)),
        ([0.97, 0.01, 0.01, 0.01], {"typical_p": 0.5, "min_keep": 9}, [0.97, 0.01, 0.01, 0.01]),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.19, "min_keep": 2}, shares(0, 0, 0.2, 0.1)),
        (FALLING, {"xtc_probability": 1.0, "xtc_threshold": 0.19, "min_keep": 3}, FALLING),
        # Dynamic temperature: the highest for a flat distribution, the lowest for a sharp one.
        ([0.5, 0.5], {"temperature": 1.0, "dynatemp_range": 0.5}, [0.5, 0.5]),
        ([1, 1e-30], {"temperature": 1.0, "dynatemp_range": 1.0}, [1, 0]),
        # Greedy: the first of equals, after the stages before the temperature.
        ([0.1, 0.4, 0.4, 0.1], {"temperature": 0.0}, [0, 1, 0, 0]),
        (FALLING, {"temperature": 0.0, "history": (0,), "repetition_penalty": 2.0}, [0, 1, 0, 0]),
        ([0.4, 0.2, 0.2, 0.2], {"temperature": 0.0, "typical_p": 0.5}, [1, 0, 0, 0]),
        ([0.4, 0.2, 0.2, 0.2], {"temperature": 0.0, "typical_p": 0.5, "stages": LLAMACPP_STAGES}, [0, 1, 0, 0]),
        (FALLING, {"temperature": 0.0, "stages": ("top_k",)}, FALLING),
        # Before the stages.
        ([0.25] * 4, {"logit_bias": {2: math.log(2)}}, [0.2, 0.2, 0.4, 0.2]),
        ([0.25] * 4, {"allowed_token_ids": [1, 3, 99]}, [0, 0.5, 0, 0.5]),
        ([0.25] * 4, {"suppressed": (0, 1, 99)}, [0, 0, 0.5, 0.5]),
        ([0.1, 0.2, 0.3, 0.4], {"temperature": 0.0, "suppressed": (3,)}, [0, 0, 1, 0]),
    ],
)
def test_stage(weights: list[float], fields: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(probabilities(weights, **fields), expected, atol=1e-5)


def test_xtc_strikes_as_often_as_asked() -> None:
    logits = np.log(np.array([FALLING] * 2000, dtype=np.float32))
    rows = [row(seed=i, xtc_probability=0.3, xtc_threshold=0.15) for i in range(2000)]
    struck = int((_native.probabilities(logits, rows)[:, 0] == 0).sum())
    assert 520 < struck < 680  # 600, four standard deviations of 20


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e308},
        {"logit_bias": {0: 1e39, 1: -1e39}},
        {"logit_bias": {0: 3e38}, "temperature": 1e-5},
        {"temperature": 1e308},
        {"frequency_penalty": -2.0, "presence_penalty": 2.0, "repetition_penalty": 1e-30, "temperature": 2e-5},
        {"dry_multiplier": 1e308, "dry_base": 1e308, "dry_allowed_length": 0},
        {"dynatemp_range": 1e308, "dynatemp_exponent": -1e308},
        {"dynatemp_range": 1.0, "dynatemp_exponent": 1e308},
        {"top_n_sigma": 1e308},
        {"top_n_sigma": 5e-324},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0},
        {"min_keep": 2**62},
        *(
            {"mirostat": m, "mirostat_tau": t, "mirostat_eta": e}
            for m in (1, 2)
            for t in (0.0, 1e308)
            for e in (0, 1e308)
        ),
        {"mirostat": 2, "state": (math.inf, 0)},
        {"adaptive_target": 1.0, "adaptive_decay": 0.99, "state": (1e300, 1e-300)},
        {"watermark": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("stages", [VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES, tuple(reversed(VLLM_STAGES))])
def test_parameters_beyond_float32(fields: dict[str, Any], stages: tuple[str, ...]) -> None:
    """Whatever they do to the logits, a token comes out."""
    logits = np.array([[0.0, 5.0, -5.0, 0.0]], dtype=np.float32)
    narrow = {"top_k": 3, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.01, "stages": stages}
    for temperature in (fields.get("temperature", 1.0), 0.0):
        rows = [row(history=(0, 1, 2, 2), **narrow | fields | {"temperature": temperature})]
        output = sample(logits, rows)
        assert output.errors == [None] and 0 <= output.tokens[0] < 4
        assert all(np.isfinite(state).all() for state in output.states.values())
        distribution = _native.probabilities(logits, rows)[0]
        assert np.isfinite(distribution).all() and distribution.sum() == pytest.approx(1)


def test_penalties_count_the_prompt_for_repetition_only() -> None:
    fields = {"history": (0, 1), "prompt_len": 1, "presence_penalty": 1.0}
    p = probabilities([0.25] * 4, **fields)
    assert p[0] == p[2] == p[3] > p[1]
    windowed = probabilities([0.25] * 4, **fields, penalty_last_n=2)
    assert windowed[0] == windowed[1] < windowed[2]


LISTED = sorted(set(STAGES) - {"watermark", "infill"})
chains = st.one_of(st.sampled_from([VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES]), st.permutations(LISTED).map(tuple))


def tenths(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(round(low * 10), round(high * 10)).map(lambda n: n / 10)


several = st.fixed_dictionaries(
    {"stages": chains},
    optional={
        "temperature": tenths(0.3, 2),
        "dynatemp_range": tenths(0, 1),
        "dynatemp_exponent": tenths(0.5, 2),
        "top_k": st.integers(0, 60),
        "top_p": tenths(0.1, 1),
        "min_p": tenths(0, 0.5),
        "typical_p": tenths(0.1, 1),
        "top_n_sigma": tenths(0, 3),
        "min_keep": st.integers(0, 5),
        "xtc_probability": st.just(1.0),
        "xtc_threshold": tenths(0.1, 0.6),
        "repetition_penalty": tenths(0.5, 2),
        "frequency_penalty": tenths(-2, 2),
        "presence_penalty": tenths(-2, 2),
        "penalty_last_n": st.integers(-1, 20),
        "dry_multiplier": tenths(0, 2),
        "dry_base": tenths(0.9, 2),
        "dry_allowed_length": st.integers(0, 3),
        "dry_penalty_last_n": st.integers(-1, 20),
        "history": st.lists(st.integers(0, 2), max_size=30).map(tuple),
        "prompt_len": st.integers(0, 5),
    },
)


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 50, 300, 5000]), several)
def test_chain_equals_reference(seed: int, vocab: int, fields: dict[str, Any]) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (1, vocab)).astype(np.float32)
    r = row(**fields)
    got, want = _native.probabilities(logits, [r])[0], distribution(logits[0], r)
    # At a border of what is kept float32 and float64 may differ by one candidate, for each stage that narrows.
    least = 1e-20  # of what float32 tells from nothing
    both = (got > least) & (want > least)
    assert both.any()
    assert abs(int((got > least).sum()) - int((want > least).sum())) <= 2
    np.testing.assert_allclose(got[both] / got[both].sum(), want[both] / want[both].sum(), rtol=1e-3)
