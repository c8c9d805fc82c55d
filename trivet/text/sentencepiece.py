"""SentencePiece's BPE from a GGUF's tokens and scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from trivet._native import ScoredMerges
from trivet.text.vocabulary import SPACE, TokenIds, byte_token


def sentencepiece_encoder(
    tokens: Sequence[str],
    ids: TokenIds,
    scores: list[float],
    apart: Collection[int],
    unknown: int,
    space_prefix: bool,
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids: neighbours that make a token are merged, the token of the
    highest score first, and of equals the leftmost; what is no token becomes byte tokens, or else `unknown`.

    ids: of the tokens. apart: those that merging never makes (llama.cpp has none, so a text can spell a control token
    there).
    """
    byte_tokens = [ids.get(byte_token(byte), -1) for byte in range(256)]
    mergeable = list(tokens)
    for i in apart:
        mergeable[i] = ""
    encoder = ScoredMerges(mergeable, scores, byte_tokens, unknown)
    prefix = " " if space_prefix else ""

    def encode(text: str) -> list[int]:
        return encoder.encode([(prefix + text).replace(" ", SPACE)])

    return encode
