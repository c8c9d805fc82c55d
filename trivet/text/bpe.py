"""Byte-pair encoding from a GGUF's tokens and merges, on the `tokenizers` library's model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, models

from trivet.errors import ModelError
from trivet.text.pre_tokenizers import PreTokenizer
from trivet.text.vocabulary import SPACE


def bpe_encoder(
    tokens: Sequence[str], merges: Sequence[str], pre_tokenizer: PreTokenizer
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids.

    merges: pairs "left right", best first. Raises ModelError when they do not fit the tokens.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(_model(ids, merges, pre_tokenizer))
    tokenizer.pre_tokenizer = pre_tokenizer.build()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    if pre_tokenizer.byte_level:
        return encode

    def encode_lines(text: str) -> list[int]:
        text = text.replace(" ", SPACE)
        if not pre_tokenizer.whole_newlines:
            return encode(text)
        out: list[int] = []
        for run in re.findall(r"[^\n]+|\n+", text):
            out += [ids[run]] if run[0] == "\n" and run in ids else encode(run)
        return out

    return encode_lines


def _model(ids: dict[str, int], merges: Sequence[str], pre_tokenizer: PreTokenizer) -> models.BPE:
    # The first of equal merges counts; the library would take the last.
    pairs = [_pair(merge) for merge in dict.fromkeys(merges)]
    options = {"ignore_merges": pre_tokenizer.ignore_merges, "byte_fallback": not pre_tokenizer.byte_level}
    try:
        return models.BPE(ids, pairs, **options)
    except Exception:
        # Merges that name or make tokens which do not exist can never take part; the library refuses them.
        pairs = [(a, b) for a, b in pairs if a in ids and b in ids and a + b in ids]
    try:
        return models.BPE(ids, pairs, **options)
    except Exception as error:
        raise ModelError(f"the tokenizer's merges do not fit its tokens: {error}") from None


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge[1:].partition(" ")
    return merge[:1] + left, right
