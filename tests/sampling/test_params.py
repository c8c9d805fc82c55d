"""Every field of SamplingParams is checked, and the error names it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", [0, -1, 16385, 1.5, True, "2"]),
        ("temperature", [-0.1, math.nan, math.inf, 10**400, "hot", True]),
        ("top_p", [0, -1, 1.1, math.nan]),
        ("top_k", [-2, 0.5, 2**63]),
        ("min_p", [-0.1, 1.1]),
        ("typical_p", [0, 1.5]),
        ("presence_penalty", [math.inf, math.nan]),
        ("frequency_penalty", [-math.inf, None]),
        ("repetition_penalty", [0, -1, math.inf]),
        ("penalty_last_n", [-2, 2**63]),
        ("seed", [2**64, -(2**63) - 1, 0.5]),
        ("max_tokens", [0, -5, 10**30]),
        ("min_tokens", [-1, 17]),
        ("logprobs", [-2, 2**63]),
        ("prompt_logprobs", [-2]),
        ("stop", ["", ["a", ""], [1]]),
        ("stop_token_ids", [[-1], ["a"], 5]),
        ("allowed_token_ids", [[], [-1]]),
        ("logit_bias", [{-1: 1.0}, {1: math.nan}, {1: "a"}, [1], 3]),
        ("bad_words", [[""], [1], "word", ["\ud800"], ["a"] * 129]),
        ("logprob_token_ids", [[-1], ["a"], list(range(129))]),
        ("logprobs_mode", ["raw_logits", None]),
        ("min_keep", [-1, 0.5]),
        ("top_n_sigma", [math.nan, math.inf]),
        ("dynatemp_range", [-0.1, math.inf]),
        ("dynatemp_exponent", [math.nan, "1"]),
        ("xtc_probability", [-0.1, 1.1]),
        ("xtc_threshold", [-0.1, 1.1]),
        ("dry_multiplier", [-0.1, math.nan]),
        ("dry_base", [-1, math.inf]),
        ("dry_allowed_length", [-1, 1.5, 2**63]),
        ("dry_penalty_last_n", [-2]),
        ("dry_sequence_breakers", [None, [""], "\n", ["\udfff"], ["a"] * 129]),
        ("mirostat", [-1, 3, True, 0.5]),
        ("mirostat_tau", [-1, math.nan]),
        ("mirostat_eta", [-1, math.inf]),
        ("adaptive_target", [1.1, -math.inf]),
        ("adaptive_decay", [-0.1, 1.0]),
        ("watermark", [1, None]),
        ("stages", [("top_q",), "top_k", 3, None]),
    ],
)
def test_bad_values_are_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(RequestError, match=field) as caught:
            SamplingParams(**{field: value})
        assert caught.value.parameter == field


def test_short_forms() -> None:
    assert SamplingParams(stop="x").stop == ["x"]
    assert SamplingParams(seed=-1).seed is None
    assert SamplingParams(logprobs=True).logprobs == 1
    assert SamplingParams(logprob_token_ids=[3]).logprobs == 0


def test_round_trip() -> None:
    params = SamplingParams(temperature=0.5, stop=["a"], logit_bias={3: 1.5}, seed=2**64 - 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
