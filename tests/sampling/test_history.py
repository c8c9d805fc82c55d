"""What the tokens so far do: repetitions, sequence breakers, bad words, the watermark."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.rows import probabilities, row
from trivet import _native

Breakers = list[tuple[list[int], list[int]]]


def penalized(history: tuple[int, ...], breakers: Breakers, allowed: int = 1) -> dict[int, int]:
    """Tokens that DRY penalises, with the length of what they would repeat."""
    p = probabilities(
        [1 / 8] * 8,
        dry_multiplier=1.0,
        dry_base=2.0,
        dry_allowed_length=allowed,
        history=history,
        dry_breakers=breakers,
    )
    lost = np.log(p.max() / p)
    return {t: allowed + round(math.log2(x)) for t, x in enumerate(lost) if x > 0.5}


def plainly(history: tuple[int, ...], breakers: Breakers, allowed: int = 1) -> dict[int, int]:
    """The same, comparing everything with everything."""
    sequences = [(head, *tail) for heads, tail in breakers for head in heads]
    limit = len(history)
    for i in range(len(history)):  # tokens after the one that begins a breaker
        at = len(history) - 1 - i
        matching = [s for s in sequences if history[at : at + len(s)] == s]
        if matching:
            limit = i - max(map(len, matching)) + 1
            break
    found: dict[int, int] = {}
    for at in range(1, len(history)):
        length = 0
        while length < min(at, limit) and history[at - 1 - length] == history[-1 - length]:
            length += 1
        if length >= allowed and (history[at],) not in sequences and limit >= allowed:
            found[history[at]] = max(length, found.get(history[at], 0))
    return found


@pytest.mark.parametrize(
    ("history", "breakers", "expected"),
    [
        ((0, 1, 2, 3, 0, 1, 2), [], {3: 3}),
        ((0, 1, 2, 3, 4, 1, 2), [], {3: 2}),
        ((0, 1, 2, 3, 0, 1, 2), [([1], [])], {3: 1}),
        ((0, 1, 2, 3, 0, 1, 2), [([2], [])], {}),
        ((0, 1, 2, 3, 0, 1, 2), [([3], [])], {}),
        ((0, 1, 2, 3, 0, 1, 2), [([0], [])], {3: 2}),
        ((0, 1, 2, 3, 0, 1, 2), [([0, 5], [1])], {3: 1}),
        ((0, 1, 2, 3, 0, 1, 2), [([0], [1, 2])], {}),
        ((0, 1, 2, 3, 0, 1, 2), [([0], [2])], {3: 3}),
        ((0, 1, 2, 3, 0, 1, 2), [([2], [3])], {3: 3}),
        ((1, 1, 1, 1), [], {1: 3}),
        ((0, 1, 2), [], {}),
        ((), [], {}),
    ],
)  # fmt: skip
def test_dry_ends_repetitions_at_breakers(
    history: tuple[int, ...], breakers: Breakers, expected: dict[int, int]
) -> None:
    assert penalized(history, breakers) == expected


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 3), max_size=24).map(tuple),
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=2), st.lists(st.integers(0, 3), max_size=2)),
        max_size=2,
    ),
    st.integers(0, 3),
)
def test_dry_equals_comparing_everything(history: tuple[int, ...], breakers: Breakers, allowed: int) -> None:
    assert penalized(history, breakers, allowed) == plainly(history, breakers, allowed)


def test_dry_takes_linear_time() -> None:
    """A prompt of one token over and over would take a quadratic search half a minute."""
    history = (5,) * 300_000
    p = probabilities([1 / 8] * 8, dry_multiplier=1.0, dry_base=1.0, history=history)
    assert p[5] < p[0]


@pytest.mark.parametrize(
    ("history", "prompt_len", "words", "banned"),
    [
        ((0, 1), 0, [[2]], [2]),
        ((0, 1), 0, [[1, 2]], [2]),
        ((0, 1), 0, [[0, 2], [1, 3]], [3]),
        ((0, 1), 0, [[0, 1, 3]], [3]),
        ((0, 1), 0, [[9, 0, 1, 3]], []),
        ((0, 1), 1, [[0, 1, 3], [1, 2]], [2]),  # only the output counts
        ((0, 1), 2, [[1, 2]], []),
        ((), 0, [[0], [1, 2], []], [0]),
        ((0, 1), 0, [[99], [1, 98]], []),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_words_are_not_completed(
    history: tuple[int, ...], prompt_len: int, words: list[list[int]], banned: list[int], temperature: float
) -> None:
    fields = {"history": history, "prompt_len": prompt_len, "bad_words": words, "temperature": temperature}
    p = probabilities([0.1, 0.2, 0.3, 0.4], **fields)
    allowed = [t for t in range(4) if t not in banned]
    assert set(np.flatnonzero(p)) == (set(allowed) if temperature else {max(allowed)})


def green(last: int, vocab: int, **fields: object) -> np.ndarray:
    """The tokens that the watermark favours."""
    p = _native.probabilities(np.zeros((1, vocab), np.float32), [row(history=(7, last), watermark=True, **fields)])[0]
    ratio = p / p.min()
    np.testing.assert_allclose(ratio[ratio > 1.5], math.exp(2), rtol=1e-4)  # delta is 2
    return ratio > 1.5


@pytest.mark.parametrize("vocab", [2, 3, 100, 4096, 50257])
def test_the_watermark_favours_half_of_the_vocabulary(vocab: int) -> None:
    for last in (0, 1, vocab - 1):
        assert green(last, vocab).sum() == vocab // 2


def test_the_watermark_depends_on_the_token_before_alone() -> None:
    lists = [green(last, 5000) for last in range(40)]
    assert (green(3, 5000, seed=99, temperature=1.0) == lists[3]).all()
    shared = [int((a & b).sum()) for i, a in enumerate(lists) for b in lists[:i]]
    # A quarter of the vocabulary, as of halves drawn at random: 1250, with a deviation of 18.
    assert min(shared) > 1150 and max(shared) < 1350
    assert abs(np.mean(shared) - 1250) < 10
    per_token = np.sum(lists, axis=0)
    assert per_token.min() >= 6 and per_token.max() <= 34  # of 40, around 20


def test_the_watermark_turns_a_greedy_choice() -> None:
    logits = np.zeros((1, 100), np.float32)
    favoured = green(5, 100)
    logits[0, np.flatnonzero(~favoured)[0]] = 1.5
    chosen = _native.sample(logits, [row(history=(5,), watermark=True, temperature=0)])[0][0]
    assert favoured[chosen]
