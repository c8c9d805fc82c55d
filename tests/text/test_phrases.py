"""Texts as the token sequences that a sampler has to know, against searching the whole vocabulary plainly."""

from __future__ import annotations

import random
from array import array

import pytest

from tests.text.test_tokenizer import ALL, load
from tests.text.vocabs import KINDS, text
from trivet.text.phrases import Phrases
from trivet.text.tokenizer import Tokenizer


def breakers(tokenizer: Tokenizer, wanted: bytes) -> set[tuple[int, ...]]:
    """llama.cpp's get_overlapping_token_sequences."""
    found: set[tuple[int, ...]] = set()
    for token in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token)
        if wanted in piece:
            found.add((token,))
            continue
        for length in range(1, len(wanted)):
            if piece.endswith(wanted[:length]):
                rest = wanted[length:].decode(errors="replace")
                if "\ufffd" not in rest and (tail := tokenizer.encode(rest, add_special=False, parse_special=False)):
                    found.add((token, *tail[:20]))
    return found


@pytest.mark.parametrize("kind", ALL)
def test_breakers_are_all_ways_to_come_upon_a_text(kind: str) -> None:
    draw = random.Random(kind)
    for seed in range(12):
        tokenizer = load(kind, seed)
        phrases = Phrases(tokenizer)
        for wanted in {"a", "\n", "é", "ab", "aab", "a\n", text(KINDS[0] if kind == "bert" else kind, draw) or "b"}:
            found = [(token, *rest) for tokens, rest in phrases.breakers([wanted, wanted]) for token in tokens]
            assert len(found) == len(set(found))
            assert set(found) == breakers(tokenizer, wanted.encode()[:40])


@pytest.mark.parametrize("kind", ALL)
def test_parents_are_the_longest_texts_that_begin_others(kind: str) -> None:
    tokenizer = load(kind, 3)
    parents = array("i", Phrases(tokenizer).parents())
    texts = [b"" if tokenizer.is_special(i) else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    for token, parent in enumerate(parents):
        shorter = [len(t) for i, t in enumerate(texts) if i != token and t and texts[token].startswith(t)]
        if parent < 0:
            assert all(length == len(texts[token]) for length in shorter)
        else:
            assert parent != token and texts[parent] and texts[token].startswith(texts[parent])
            assert len(texts[parent]) == max(shorter)


def test_bad_words_are_meant_at_the_beginning_and_after_a_space() -> None:
    """vLLM's rule, for a vocabulary that has " b" but no " c"."""

    class Words:
        vocab_size = 6

        def encode(self, text: str, add_special: bool) -> list[int]:
            assert not add_special
            return {"b": [1], " b": [2], "c": [3], " c": [0, 3], "bc": [1, 3], " bc": [2, 3], " ": [0], "": []}[text]

    phrases = Phrases(Words())
    assert phrases.bad_words(["b"]) == phrases.bad_words([" b"]) == [[1], [2]]
    assert phrases.bad_words(["c"]) == [[3]]
    assert phrases.bad_words(["bc", " "]) == [[1, 3], [2, 3], [0]]
