"""What samplers on other devices are told of a chain and of single tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.sampling.rows import row
from trivet import _native

BIASED, IMPOSSIBLE, REPEATS = 1, 2, 4


def edits(**fields: Any) -> dict[int, tuple[int, float, float]]:
    """By token: flags, bias and what is taken off a repetition."""
    words = _native.token_edits(20, [row(**fields)], [7])
    assert (words[:, 0] == 7).all() and len(set(words[:, 1].tolist())) == len(words)
    floats = words.view(np.float32)
    return {int(w[1]): (int(w[2]), float(f[3]), float(f[4])) for w, f in zip(words, floats, strict=True)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"logit_bias": {3: 1.5, 25: 1.0, 4: -math.inf}}, {3: (BIASED, 1.5, 0), 4: (IMPOSSIBLE, 0, 0)}),
        ({"allowed_token_ids": [1, 2, 30], "logit_bias": {2: 2.0, 3: 1.0}}, {1: (0, 0, 0), 2: (BIASED, 2, 0)}),
        ({"suppressed": (5, 99), "logit_bias": {5: 1.0}}, {5: (BIASED | IMPOSSIBLE, 1, 0)}),
        ({"bad_words": [[1, 2, 6], [3, 8], [9]], "history": (0, 1, 2)}, {6: (IMPOSSIBLE, 0, 0), 9: (IMPOSSIBLE, 0, 0)}),
        ({"bad_words": [[1, 2, 6]], "history": (0, 1, 2), "prompt_len": 2}, {}),
        ({"dry_multiplier": 0.5, "dry_base": 2.0, "history": (1, 2, 3, 9, 1, 2, 3)}, {9: (REPEATS, 0, 1.0)}),
        ({"repetition_penalty": 1.5, "history": (1, 2)}, {}),
    ],
)
def test_edits_of_tokens(fields: dict[str, Any], expected: dict[int, tuple[int, float, float]]) -> None:
    assert edits(**fields) == expected


def test_rows_do_not_mix() -> None:
    rows = [row(logit_bias={1: 1.0}), row(), row(logit_bias={1: 2.0, 2: 2.0})]
    assert _native.token_edits(20, rows, [0, 1, 4])[:, :2].tolist() == [[0, 1], [4, 1], [4, 2]]
    with pytest.raises(ValueError, match="an index for each row"):
        _native.token_edits(20, rows, [0])


def test_chains_tell_what_they_do() -> None:
    chain = row(top_k=5, top_p=0.9, temperature=0).chain.native
    assert (chain.stages, chain.selector, chain.first_state) == (["temperature", "top_k", "top_p"], "draw", None)
    assert chain.plainly_greedy and not row(temperature=0, logit_bias={1: 1.0}).chain.native.plainly_greedy
    mirostat = row(mirostat=2, mirostat_tau=3, top_k=5).chain.native
    assert (mirostat.stages, mirostat.selector, mirostat.first_state) == ([], "mirostat_v2", (6.0, 0.0))
