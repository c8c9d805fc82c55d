"""Texts of a given length in tokens, of which no two begin alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trivet.text.tokenizer import Tokenizer

NOUNS = (
    "time year way day man thing life child world state part place case week point home water room mother area "
    "money fact month lot right book eye job word side head end"
)
WORDS = NOUNS.split()
"""Common words: one token each in most vocabularies."""

MakePrompt = Callable[[int], str]
"""Makes a prompt of so many tokens."""


def from_words(rng: np.random.Generator, overhead: float, per_word: float) -> MakePrompt:
    """Prompts of random words.

    overhead: tokens that a server adds to every prompt (BOS, a chat template). per_word: mean over WORDS.
    """

    def make(tokens: int) -> str:
        count = max(1, round((tokens - overhead) / per_word))
        return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=count))

    return make


def from_tokenizer(rng: np.random.Generator, overhead: float, tokenizer: Tokenizer) -> MakePrompt:
    """Prompts of random tokens, exact where the vocabulary lets them be: their text is encoded again, and cut or
    extended until it has the length.
    """
    words = [
        token
        for token in range(tokenizer.vocab_size)
        if not tokenizer.is_special(token)
        and (text := tokenizer.token_text(token)).isprintable()
        and "\ufffd" not in text
    ]

    def make(tokens: int) -> str:
        wanted = max(1, tokens - round(overhead))
        ids: list[int] = []
        text = ""
        for _ in range(10):
            ids = [*ids[:wanted], *rng.choice(words, size=max(0, wanted - len(ids))).tolist()]
            text = tokenizer.decode(ids)
            ids = tokenizer.encode(text, add_special=False, parse_special=False)
            if len(ids) == wanted:
                break
        return text

    return make
