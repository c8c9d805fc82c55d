"""Tokens as TGI writes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput
from trivet.errors import EngineError
from trivet.server.dialects.tgi.schemas import PrefillToken, Token

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Step:
    """One token of a stream. `text` is what it adds to the answer: that of special tokens is left out there."""

    token: Token
    top: list[Token]
    text: str
    last: bool


class TokenWriter:
    """top_n: how many of the best tokens to tell at each position; more where the next are as likely as the last."""

    def __init__(self, tokenizer: Tokenizer, top_n: int) -> None:
        self._tokenizer = tokenizer
        self._top_n = top_n

    def tokens(self, sequence: CompletionOutput) -> list[Token]:
        return [
            Token(token.id, token.text, shortest(entry[token.id].logprob), token.special)
            for token, entry in zip(sequence.tokens, sequence.logprobs or [], strict=True)
        ]

    def top_tokens(self, sequence: CompletionOutput) -> list[list[Token]]:
        """Empty where none were asked for."""
        return [self._top(entry) for entry in sequence.logprobs or []] if self._top_n else []

    def prefill(self, output: RequestOutput) -> list[PrefillToken]:
        """The prompt's tokens, where they were asked for."""
        if output.prompt_logprobs is None:
            return []
        return [
            PrefillToken(token, self._tokenizer.token_text(token), shortest(entry[token].logprob) if entry else None)
            for token, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        ]

    def steps(self, sequence: CompletionOutput) -> Iterator[Step]:
        """A delta, token by token: their texts add up to the delta's."""
        tokens, top, text = self.tokens(sequence), self.top_tokens(sequence), sequence.text
        if sequence.finish_reason is not None and not tokens:
            raise EngineError("generation ended without a last token")
        for i, token in enumerate(tokens):
            last = i == len(tokens) - 1
            piece = text if last else "" if token.special else token.text
            text = text[len(piece) :]
            ends = last and sequence.finish_reason is not None
            yield Step(token, top[i] if top else [], piece, ends)

    def _top(self, entry: dict[int, Logprob]) -> list[Token]:
        ranked = sorted((-value.logprob, token) for token, value in entry.items() if value.logprob > -math.inf)
        least = ranked[: self._top_n][-1][0]
        return [
            Token(token, self._tokenizer.token_text(token), shortest(-cost), self._tokenizer.is_special(token))
            for cost, token in ranked
            if cost <= least
        ]


def shortest(logprob: float) -> float:
    """The number with the fewest digits that is the same in float32, which logits are."""
    return float(str(np.float32(logprob)))
