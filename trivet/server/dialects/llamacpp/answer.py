"""From the engine's outputs to llama.cpp's results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput
from trivet.server import sse
from trivet.server.dialects.llamacpp.schemas import (
    FinalResult,
    GenerationSettings,
    PartialResult,
    Timings,
    TokenProbability,
    TopProbability,
)
from trivet.server.service import Service

LOWEST = -3.4028234663852886e38
"""The lowest float32: stands for minus infinity, which JSON cannot say."""
SLOT = 0
"""There are no slots here; `id_slot` says 0 for all."""


@dataclass(slots=True)
class Progress:
    """One sequence of a stream so far. `waiting` tokens have released no text yet."""

    tokens: int = 0
    has_new_line: bool = False
    waiting: list[int] = field(default_factory=list)


class Answer:
    """Writes the results of one request; the sequence i of prompt p has the index p * n + i."""

    def __init__(
        self,
        service: Service,
        settings: GenerationSettings,
        n: int,
        return_tokens: bool,
        response_fields: Sequence[str],
    ) -> None:
        self._service = service
        self._settings = settings
        self._n = n
        self._return_tokens = return_tokens
        self._response_fields = response_fields

    def whole(self, prompt_index: int, output: RequestOutput) -> list[Any]:
        """The results of one prompt."""
        results = []
        for sequence in output.outputs:
            self._drop_unwanted(sequence)
            final = self._final(prompt_index, output, sequence, len(sequence.token_ids), "\n" in sequence.text)
            final.content = sequence.text
            final.tokens = sequence.token_ids if self._return_tokens else []
            final.completion_probabilities = self._probabilities(sequence)
            results.append(select_fields(final, self._response_fields))
        return results

    async def events(self, outputs: AsyncGenerator[tuple[int, RequestOutput], None]) -> AsyncGenerator[bytes, None]:
        progress: dict[int, Progress] = {}
        async with aclosing(outputs):
            async for prompt_index, output in outputs:
                for sequence in output.outputs:
                    self._drop_unwanted(sequence)
                    index = prompt_index * self._n + sequence.index
                    so_far = progress.setdefault(index, Progress())
                    so_far.tokens += len(sequence.token_ids)
                    so_far.waiting += sequence.token_ids
                    so_far.has_new_line |= "\n" in sequence.text
                    if sequence.text or (self._settings.n_probs and sequence.token_ids):
                        yield self._encode(self._partial(index, output, sequence, so_far))
                        so_far.waiting = []
                    if sequence.finish_reason is not None:
                        final = self._final(prompt_index, output, sequence, so_far.tokens, so_far.has_new_line)
                        yield self._encode(select_fields(final, self._response_fields))

    def _partial(
        self, index: int, output: RequestOutput, sequence: CompletionOutput, so_far: Progress
    ) -> PartialResult:
        return PartialResult(
            index=index,
            content=sequence.text,
            tokens=so_far.waiting,
            id_slot=SLOT,
            tokens_predicted=so_far.tokens,
            tokens_evaluated=len(output.prompt_token_ids),
            timings=timings(output, so_far.tokens) if self._settings.timings_per_token else UNSET,
            completion_probabilities=self._probabilities(sequence),
        )

    def _final(
        self,
        prompt_index: int,
        output: RequestOutput,
        sequence: CompletionOutput,
        generated: int,
        has_new_line: bool,
    ) -> FinalResult:
        total = len(output.prompt_token_ids) + generated
        stop_type, word = "limit", ""
        if sequence.finish_reason == "stop":
            word = sequence.stop_reason if isinstance(sequence.stop_reason, str) else ""
            stop_type = "word" if word else "eos"
        wanted = self._settings.n_predict
        return FinalResult(
            index=prompt_index * self._n + sequence.index,
            content="",
            tokens=[],
            id_slot=SLOT,
            model=self._service.name,
            tokens_predicted=generated,
            tokens_evaluated=len(output.prompt_token_ids),
            generation_settings=self._settings,
            prompt=self._service.llm.tokenizer.decode(output.prompt_token_ids),
            has_new_line=has_new_line,
            truncated=stop_type == "limit" and (wanted < 0 or generated < wanted),
            stop_type=stop_type,
            stopping_word=word,
            tokens_cached=total,
            timings=timings(output, generated),
        )

    def _drop_unwanted(self, sequence: CompletionOutput) -> None:
        """With n_predict 0 the prompt is only processed, for the cache: forget the token that came with it."""
        if self._settings.n_predict == 0:
            sequence.text, sequence.token_ids, sequence.logprobs = "", [], None
            sequence.finish_reason, sequence.stop_reason = sequence.finish_reason and "length", None

    def _probabilities(self, sequence: CompletionOutput) -> list[TokenProbability] | UnsetType:
        if not self._settings.n_probs:
            return UNSET
        return [
            TokenProbability(
                token,
                self._text(token),
                self._bytes(token),
                max(entry[token].logprob, LOWEST),
                [
                    TopProbability(other, self._text(other), self._bytes(other), max(value.logprob, LOWEST))
                    for other, value in _best(entry, self._settings.n_probs)
                ],
            )
            for token, entry in zip(sequence.token_ids, sequence.logprobs or [], strict=True)
        ]

    def _text(self, token: int) -> str:
        return self._service.llm.tokenizer.token_text(token)

    def _bytes(self, token: int) -> list[int]:
        return list(self._service.llm.tokenizer.token_bytes(token))

    @staticmethod
    def _encode(result: Any) -> bytes:
        return sse.event(msgspec.json.encode(result))


def timings(output: RequestOutput, generated: int) -> Timings:
    """Rates of generation leave out the first token, which the prompt's processing yields."""
    processed = len(output.prompt_token_ids) - output.num_cached_tokens
    prompt_ms = predicted_ms = 0.0
    if output.metrics is not None and generated:
        prompt_ms = 1000 * (output.metrics.first_token_ts - output.metrics.scheduled_ts)
        predicted_ms = 1000 * (output.metrics.last_token_ts - output.metrics.first_token_ts)
    later = generated - 1
    return Timings(
        cache_n=output.num_cached_tokens,
        prompt_n=processed,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / processed if processed else 0.0,
        prompt_per_second=1000 * processed / prompt_ms if prompt_ms > 0 else 0.0,
        predicted_n=generated,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / later if later > 0 else 0.0,
        predicted_per_second=1000 * later / predicted_ms if predicted_ms > 0 else 0.0,
    )


def select_fields(result: FinalResult, paths: Sequence[str]) -> Any:
    """`response_fields`: what slash-separated paths lead to, each under its whole path; unknown ones are left out."""
    if not paths:
        return result
    tree = msgspec.to_builtins(result)
    selected = {}
    for path in paths:
        value = tree
        for name in path.split("/"):
            value = value.get(name, UNSET) if isinstance(value, dict) else UNSET
        if value is not UNSET:
            selected[path] = value
    return selected


def _best(entry: dict[int, Logprob], count: int) -> list[tuple[int, Logprob]]:
    ranked = [item for item in entry.items() if item[1].rank is not None and item[1].rank <= count]
    return sorted(ranked, key=lambda item: item[1].rank or 0)
