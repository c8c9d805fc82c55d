"""The token sequences that stand for texts which a sampler must recognise."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache

from trivet.text.tokenizer import Tokenizer

BREAKER_BYTES = 40
BREAKER_TOKENS = 20
"""llama.cpp's limits: what of a sequence breaker counts, and how many tokens may follow its first."""

Breaker = tuple[list[int], list[int]]
"""Tokens, and those that must follow any of them."""


class Phrases:
    """Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._breaker = lru_cache(maxsize=256)(self._find_breaker)

    def bad_words(self, words: list[str]) -> list[list[int]]:
        """vLLM's rule: each word as at the beginning of a text and, where that gives as many tokens but another first
        one, as after a space.
        """
        found: list[list[int]] = []
        for word in words:
            plain = self._tokenizer.encode(word.lstrip(), add_special=False)
            spaced = self._tokenizer.encode(" " + word.lstrip(), add_special=False)
            if plain:
                found.append(plain)
            if spaced and (not plain or (spaced[0] != plain[0] and len(spaced) == len(plain))):
                found.append(spaced)
        return found

    def breakers(self, texts: Iterable[str]) -> list[Breaker]:
        """llama.cpp's rule: all tokens that hold the text, and those whose end is its beginning with the tokens of
        the rest. The first call looks at the whole vocabulary.
        """
        return [breaker for text in dict.fromkeys(texts) for breaker in self._breaker(text)]

    def parents(self) -> bytes:
        """For each token, as int32, the longest other one whose text begins its own, or -1; special tokens have no
        text. Looks at the whole vocabulary, once.
        """
        return self._parents

    @cached_property
    def _parents(self) -> bytes:
        parents = [-1] * self._tokenizer.vocab_size
        shorter: list[tuple[bytes, int]] = []
        texts = ((piece, token) for token, piece in enumerate(self._pieces) if not self._tokenizer.is_special(token))
        for piece, token in sorted(texts):
            while shorter and not piece.startswith(shorter[-1][0]):
                shorter.pop()
            if piece:
                parents[token] = shorter[-1][1] if shorter else -1
                shorter.append((piece, token))
        return array("i", parents).tobytes()

    def _find_breaker(self, text: str) -> list[Breaker]:
        wanted = text.encode()[:BREAKER_BYTES]
        holders = self._pieces.holding(wanted)
        found: list[Breaker] = [(holders, [])] if holders else []
        for length in range(1, len(wanted)):
            tail = self._encode(wanted[length:])
            heads = [token for token in self._pieces.ending(wanted[:length]) if wanted not in self._pieces[token]]
            if tail and heads:
                found.append((heads, tail[:BREAKER_TOKENS]))
        return found

    def _encode(self, rest: bytes) -> list[int]:
        """Nothing for what begins or ends within a character."""
        try:
            text = rest.decode()
        except UnicodeDecodeError:
            return []
        return self._tokenizer.encode(text, add_special=False, parse_special=False)

    @cached_property
    def _pieces(self) -> _Pieces:
        return _Pieces([self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocab_size)])


class _Pieces:
    """The bytes of all tokens, to be searched."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._list = pieces
        self._joined = b"".join(pieces)
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._by_end = sorted((piece[::-1], token) for token, piece in enumerate(pieces))

    def __getitem__(self, token: int) -> bytes:
        return self._list[token]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._list)

    def holding(self, text: bytes) -> list[int]:
        """The tokens that hold `text`, which is not empty."""
        found: list[int] = []
        at = self._joined.find(text)
        while at >= 0:
            token = bisect_right(self._ends, at)
            inside = at + len(text) <= self._ends[token]
            if inside:
                found.append(token)
            at = self._joined.find(text, self._ends[token] if inside else at + 1)
        return found

    def ending(self, text: bytes) -> list[int]:
        """The tokens that end in `text`."""
        backwards = text[::-1]
        first = bisect_left(self._by_end, (backwards, -1))
        tokens = itertools.takewhile(
            lambda entry: entry[0].startswith(backwards), itertools.islice(self._by_end, first, None)
        )
        return sorted(token for _, token in tokens)
