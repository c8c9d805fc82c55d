"""BERT's WordPiece from a GGUF, where a word's first token begins with "▁" and the others with nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from trivet.text.vocabulary import SPACE

_HAN = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
        (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip
_REPLACEMENT = "\ufffd"
_WORDS_CACHED = 1 << 15
_LONGEST_CACHED = 64


def wordpiece_encoder(
    ids: Mapping[str, int], unknown: int, lowercase: bool = True, strip_accents: bool = True
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids: each word becomes the longest tokens that fit, from left
    to right, or `unknown` as a whole where one is missing.

    ids: of the tokens.
    """
    longest = max(map(len, ids))

    def pieces(word: str) -> list[int]:
        word, start, out = SPACE + word, 0, []
        while start < len(word):
            for end in range(min(len(word), start + longest), start, -1):
                if (found := ids.get(word[start:end])) is not None:
                    break
            else:
                return [unknown]
            out.append(found)
            start = end
        return out

    cached_pieces = lru_cache(_WORDS_CACHED)(pieces)

    def encode(text: str) -> list[int]:
        out: list[int] = []
        for word in _words(text, lowercase, strip_accents):
            out += (cached_pieces if len(word) <= _LONGEST_CACHED else pieces)(word)
        return out

    return encode


def _words(text: str, lowercase: bool, strip_accents: bool) -> Iterator[str]:
    """Runs of what is neither space nor punctuation; a punctuation mark or Chinese character is a word of its own."""
    if strip_accents:
        text = unicodedata.normalize("NFD", text)
    word: list[str] = []
    for char in text:
        if char.isspace() and char not in "\x1c\x1d\x1e\x1f":
            alone, char = True, ""
        else:
            category = unicodedata.category(char)
            if (category[0] == "C" and category != "Cn") or char == _REPLACEMENT:
                continue
            if strip_accents and category[0] == "M":
                continue
            alone = category[0] == "P" or (char < "\x7f" and category[0] == "S") or _is_han(char)
            char = char.lower() if lowercase else char
        if not alone:
            word.append(char)
            continue
        if word:
            yield "".join(word)
            word = []
        if char:
            yield char
    if word:
        yield "".join(word)


def _is_han(char: str) -> bool:
    return char >= "\u3400" and any(first <= ord(char) <= last for first, last in _HAN)
