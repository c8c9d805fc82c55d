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


def test_bad_calls_raise() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1 sample rows"):
        sample(np.zeros((2, 4), dtype=np.float32), [row()])
    params = SamplingParams()
    params.stages = ("top_q",)
    with pytest.raises(ValueError, match="unknown sampling stage 'top_q'"):
        _native.Chain(params, [], [], [], b"")
