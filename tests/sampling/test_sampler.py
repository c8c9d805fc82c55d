"""What goes wrong in a row, and what in a call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.sampling.rows import row
from trivet import _native
from trivet.sampling.params import LLAMACPP_STAGES, TGI_STAGES, VLLM_STAGES, SamplingParams
from trivet.sampling.sampler import sample


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_fail_their_row_only(bad: float) -> None:
    logits = np.zeros((3, 20), dtype=np.float32)
    logits[1, 13] = bad
    out = sample(logits, [row(temperature=0)] * 3)
    assert out.errors == [None, "non-finite logits", None]


@pytest.mark.parametrize("stages", [VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES])
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0}, {"mirostat": 2}, {"logprobs": 2, "logprobs_mode": "processed"}]
)
def test_no_token_left_is_an_error(stages: tuple[str, ...], fields: dict[str, Any]) -> None:
    narrow = {"top_k": 2, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "top_n_sigma": 1.0, "dynatemp_range": 0.5}
    r = row(allowed_token_ids=[2], suppressed=(2,), stages=stages, **narrow | fields)
    for logits in (np.zeros((1, 4), np.float32), np.zeros((1, 9000), np.float32)):
        assert "no token is possible" in (sample(logits, [r]).errors[0] or "")


@pytest.mark.parametrize("fields", [{"typical_p": 0.9}, {"dynatemp_range": 0.5}, {"top_k": 1}, {"top_p": 0.5}])
def test_logits_as_far_apart_as_floats_can_be(fields: dict[str, Any]) -> None:
    logits = np.array([[2e38, -2e38, 0, -3e38]], np.float32)
    assert sample(logits, [row(stages=LLAMACPP_STAGES, **fields)]).tokens[0] == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    logits = np.random.default_rng(1).normal(0, 3, (40, 9000)).astype(np.float32)
    logits[7, 8999] = math.nan
    logits[8] *= np.float32(1e-39)  # subnormal
    ways: list[dict[str, Any]] = [{"temperature": 0}, {"top_p": 0.9, "logprobs": 3}, {"top_k": 5}, {"mirostat": 2}]
    rows = [row(i, **ways[i % len(ways)]) for i in range(40)]
    program = _native.Program(threads, [(0, 16)], "f32", [])
    assert _native.sample(logits, rows, program) == _native.sample(logits, rows)


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 64, 127, 200])
def test_the_first_of_the_largest_is_taken(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(20):
        logits = random.integers(-9, -1, (1, size)).astype(np.float32)
        assert sample(logits, [row(temperature=0)]).tokens[0] == logits[0].argmax()
        logits[0, random.integers(size)] = random.choice([math.nan, math.inf, -math.inf])
        assert sample(logits, [row(temperature=0)]).errors == ["non-finite logits"]


def test_bad_calls_raise() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1 sample rows"):
        sample(np.zeros((2, 4), dtype=np.float32), [row()])
    with pytest.raises(ValueError, match="rows of no logits"):
        sample(np.zeros((1, 0), dtype=np.float32), [row()])
    for tokens in (np.arange(3), np.arange(6, dtype=np.int32)[::2]):
        penalised = row(history=(0, 1, 2), repetition_penalty=2.0)
        penalised.tokens = tokens
        with pytest.raises(ValueError, match="a contiguous array of int32"):
            sample(np.zeros((1, 4), dtype=np.float32), [penalised])
    params = SamplingParams()
    params.stages = ("top_q",)
    with pytest.raises(ValueError, match="unknown sampling stage 'top_q'"):
        _native.Chain(params, [], [], [], b"")
