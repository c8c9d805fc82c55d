"""Log-probabilities in the two shapes of the OpenAI API, with vLLM's choice of entries."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from trivet.api.outputs import Logprob
from trivet.server.dialects.openai.answers import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class LogprobsWriter:
    """Entries are dicts with the sampled token first, then the best by rank.

    top: how many entries of each to tell, -1 for all. as_ids: call tokens `token_id:N` instead of by their text.
    """

    def __init__(self, tokenizer: Tokenizer, top: int, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._as_ids = as_ids

    def chat(self, ids: Sequence[int], entries: Sequence[dict[int, Logprob]]) -> ChatLogprobs:
        content = []
        for token, entry in zip(ids, entries, strict=True):
            top = [
                TopLogprob(self._name(other, value), max(value.logprob, LOWEST), self._bytes(other))
                for other, value in islice(entry.items(), None if self._top < 0 else self._top)
            ]
            own = entry[token]
            content.append(TokenLogprob(self._name(token, own), max(own.logprob, LOWEST), self._bytes(token), top))
        return ChatLogprobs(content)

    def completion(
        self, ids: Sequence[int], entries: Sequence[dict[int, Logprob] | None], offset: int
    ) -> tuple[CompletionLogprobs, int]:
        """`offset` is the position in the text where the first token begins; returns that after the last."""
        written = CompletionLogprobs([], [], [], [])
        for token, entry in zip(ids, entries, strict=True):
            own = entry[token] if entry is not None else None
            name = self._name(token, own)
            written.text_offset.append(offset)
            written.tokens.append(name)
            written.token_logprobs.append(None if own is None else max(own.logprob, LOWEST))
            written.top_logprobs.append(
                None
                if entry is None
                else {
                    self._name(other, value): max(value.logprob, LOWEST)
                    for other, value in islice(entry.items(), None if self._top < 0 else self._top + 1)
                }
            )
            offset += len(name)
        return written, offset

    def _name(self, token: int, entry: Logprob | None) -> str:
        if self._as_ids:
            return f"token_id:{token}"
        if entry is not None and entry.decoded_token is not None:
            return entry.decoded_token
        return self._tokenizer.token_text(token)

    def _bytes(self, token: int) -> list[int]:
        return list(self._tokenizer.token_bytes(token))


def prompt_logprobs(entries: list[dict[int, Logprob] | None] | None) -> PromptLogprobs | None:
    """vLLM's `prompt_logprobs` field: per prompt token, token id -> entry."""
    if entries is None:
        return None
    return [None if entry is None else _prompt_entry(entry) for entry in entries]


def _prompt_entry(entry: dict[int, Logprob]) -> dict[int, PromptLogprob]:
    return {
        token: PromptLogprob(max(value.logprob, LOWEST), value.rank, value.decoded_token)
        for token, value in entry.items()
    }
