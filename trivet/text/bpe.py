"""Byte-pair encoding from a GGUF's tokens and merges."""

from __future__ import annotations

from collections.abc import Callable

from trivet._native import EncodedStrings, RankedMerges
from trivet.text.pre_tokenizers import PreTokenizer
from trivet.text.vocabulary import BYTE_ALPHABET, SPACE, TokenIds, byte_token


def bpe_encoder(
    tokens: list[str] | EncodedStrings,
    ids: TokenIds,
    merges: list[str] | EncodedStrings,
    pre_tokenizer: PreTokenizer,
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids.

    ids: of the tokens. merges: pairs "left right", best first.
    """
    spelling = BYTE_ALPHABET if pre_tokenizer.byte_level else [byte_token(byte) for byte in range(256)]
    byte_tokens = [ids.get(text, -1) for text in spelling]
    # The tokenizers library's BPE gives the same ids, but takes half a second to take in 280,000 merges.
    encoder = RankedMerges(tokens, merges, byte_tokens, pre_tokenizer.byte_level, pre_tokenizer.ignore_merges)
    cut = pre_tokenizer.cutter()

    def encode(text: str) -> list[int]:
        return encoder.encode(cut(text))

    if pre_tokenizer.byte_level:
        return encode
    newlines = {}
    if pre_tokenizer.whole_newlines:
        newlines = {token: i for i, token in enumerate(tokens) if set(token) == {"\n"}}

    def encode_lines(text: str) -> list[int]:
        out: list[int] = []
        for word in cut(text.replace(" ", SPACE)):
            out += [newlines[word]] if word in newlines else encoder.encode([word])
        return out

    return encode_lines
