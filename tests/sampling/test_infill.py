"""The stage "infill" against a plain form of llama.cpp's."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.rows import logits_of, probabilities, row
from trivet import _native
from trivet.text.phrases import Phrases

PIECES = ["", "a", "ab", "abc", "b", "bc", "ab", "c", "x"]
END = 8


class Pieces:
    """As much of a tokenizer as is needed."""

    vocab_size = len(PIECES)

    def token_bytes(self, token: int) -> bytes:
        return PIECES[token].encode()

    def is_special(self, token: int) -> bool:
        return token == END


PARENTS = Phrases(Pieces()).parents()


def infill(weights: list[float]) -> list[int]:
    """The tokens that are kept, by comparing all with all. llama.cpp leaves open which of equal ones comes first."""
    p = {token: weight / sum(weights) for token, weight in enumerate(weights)}
    order = sorted(p, key=lambda token: (-weights[token], len(PIECES[token]), token))
    if 3 * p[END] * len(p) > 1 - p[END]:
        return [END]
    for one in order:
        for other in order:
            text = PIECES[one] if one != END else ""
            if p[one] == 0:
                break
            if one == other or p[other] == 0 or not text or other == END or not PIECES[other].startswith(text):
                continue
            into, out = (other, one) if p[other] > p[one] else (one, other)
            p[into] += p[out]
            p[out] = 0
    kept = [token for token in order if p[token] >= 0.2 or token == END]
    texts = len(kept) - 1
    if texts == 0:
        return [END]
    total = sum(p[token] for token in kept)
    return sorted(token for token in kept if p[token] / total >= 1 / (texts + 1) or token == END)


def test_a_parent_is_the_longest_token_that_begins_a_text() -> None:
    assert list(array("i", PARENTS)) == [-1, -1, 1, 6, -1, 4, 2, -1, -1]


@settings(max_examples=300)
@given(st.lists(st.integers(1, 60), min_size=8, max_size=8), st.sampled_from([0.01, 0.13, 1.3, 10.7]))
def test_infill_equals_comparing_all_with_all(weights: list[int], end: float) -> None:
    every = [*map(float, weights), end]
    p = probabilities(every, stages=("infill",), end_tokens=[END], piece_parents=PARENTS)
    assert np.flatnonzero(p).tolist() == infill(every)
    np.testing.assert_allclose(p[p > 0], np.array(every)[p > 0] / np.array(every)[p > 0].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"end_tokens": [3]}, [3]),
        ({"end_tokens": [3], "suppressed": (3,)}, [1]),
        ({"end_tokens": [999]}, [1]),
        ({}, [1]),
    ],
)
def test_where_no_text_is_likely_generation_ends(fields: dict, kept: list[int]) -> None:
    weights = [0.9, 1.0, *[0.9] * 300]
    weights[3] = 1e-6
    p = _native.probabilities(logits_of(weights), [row(stages=("infill",), **fields)])[0]
    assert np.flatnonzero(p).tolist() == kept
