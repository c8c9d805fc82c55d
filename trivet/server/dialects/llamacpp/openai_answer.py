"""Answers in the shapes of the OpenAI API, as llama.cpp writes them."""

from __future__ import annotations

import secrets
import string
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Items
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from trivet.server import sse
from trivet.server.dialects.llamacpp.generation import Generation, Sequence, Step
from trivet.server.dialects.llamacpp.models import build_info, model_name
from trivet.server.dialects.llamacpp.native import final_result, partial_result
from trivet.server.dialects.llamacpp.openai_results import (
    Chat,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    Delta,
    Logprobs,
    Message,
    PromptTokensDetails,
    Text,
    TextChoice,
    Usage,
)
from trivet.server.dialects.llamacpp.probabilities import probabilities
from trivet.server.service import Service

_ALPHABET = string.digits + string.ascii_letters


class _OpenAIAnswer(ABC):
    """echoes: for each prompt, the text that the answer begins with. verbose: add the native result."""

    def __init__(
        self, service: Service, generation: Generation, *, echoes: Items[str], verbose: bool, include_usage: bool
    ) -> None:
        self._service = service
        self._generation = generation
        self._echoes = echoes
        self._verbose = verbose
        self._include_usage = include_usage
        self._begun: set[int] = set()
        self._head: dict[str, Any] = {
            "id": "chatcmpl-" + "".join(secrets.choice(_ALPHABET) for _ in range(32)),
            "created": int(time.time()),
            "model": model_name(service),
            "system_fingerprint": build_info(),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._generation.steps()) as steps:
            async for step in steps:
                for chunk in self._last(step.sequence) if step.sequence.ended else self._news(step):
                    yield sse.event(msgspec.json.encode(chunk))
        yield sse.DONE

    @abstractmethod
    def _news(self, step: Step) -> list[Any]:
        """The chunks of one step."""

    @abstractmethod
    def _last(self, sequence: Sequence) -> list[Any]:
        """The chunks that end a sequence."""

    def _is_first(self, sequence: Sequence) -> bool:
        """True once for each sequence."""
        first = sequence.index not in self._begun
        self._begun.add(sequence.index)
        return first

    def _echo(self, sequence: Sequence) -> str:
        return self._echoes[sequence.index * len(self._echoes) // len(self._generation.sequences)]

    def _logprobs(self, tokens: list[int], entries: list[Any], sequence: Sequence) -> Logprobs | None:
        if not entries or not sequence.settings.n_probs:
            return None
        return Logprobs(probabilities(self._service.llm.tokenizer, sequence.settings, tokens, entries))

    def _written(self, sequence: Sequence) -> Any:
        """The native result, where it is wanted."""
        return final_result(self._service, sequence) if self._verbose else UNSET


class TextAnswer(_OpenAIAnswer):
    def whole(self) -> Text:
        sequences = self._generation.sequences
        choices = [
            TextChoice(
                self._echo(sequence) + sequence.text,
                sequence.index,
                self._logprobs(sequence.tokens, sequence.logprobs, sequence),
                finish_reason(sequence),
            )
            for sequence in sequences
        ]
        return Text(
            **self._head,
            choices=choices,
            usage=usage(sequences),
            verbose=self._written(sequences[0]),
            timings=sequences[0].timings,
        )

    def _news(self, step: Step) -> list[Text]:
        sequence = step.sequence
        echo = self._echo(sequence) if step.progress is None and self._is_first(sequence) else ""
        choice = TextChoice(
            echo + step.text, sequence.index, self._logprobs(step.tokens, step.logprobs, sequence), None
        )
        return [
            Text(
                **self._head,
                choices=[choice],
                verbose=partial_result(self._service, step) if self._verbose else UNSET,
                timings=step_timings(step),
                prompt_progress=step.progress or UNSET,
            )
        ]

    def _last(self, sequence: Sequence) -> list[Text]:
        echo = self._echo(sequence) if self._is_first(sequence) else ""
        return [
            Text(
                **self._head,
                choices=[TextChoice(echo, sequence.index, None, finish_reason(sequence))],
                usage=usage([sequence]),
                verbose=self._written(sequence),
                timings=sequence.timings,
            )
        ]


class ChatAnswer(_OpenAIAnswer):
    def whole(self) -> Chat:
        sequences = self._generation.sequences
        choices = [
            ChatChoice(
                finish_reason(sequence),
                sequence.index,
                Message("assistant", self._echo(sequence) + sequence.text),
                self._logprobs(sequence.tokens, sequence.logprobs, sequence) or UNSET,
            )
            for sequence in sequences
        ]
        return Chat(
            **self._head,
            choices=choices,
            usage=usage(sequences),
            verbose=self._written(sequences[0]),
            timings=sequences[0].timings,
        )

    def _news(self, step: Step) -> list[ChatChunk]:
        sequence = step.sequence
        if step.progress is not None:
            chunk = self._role(sequence)
            chunk.prompt_progress = step.progress
            return [chunk]
        chunks = self._beginning(sequence)
        logprobs = self._logprobs(step.tokens, step.logprobs, sequence)
        if step.text or logprobs:
            chunks.append(self._chunk(sequence, Delta(content=step.text), logprobs=logprobs or UNSET))
            chunks[-1].timings = step_timings(step)
        return chunks

    def _last(self, sequence: Sequence) -> list[ChatChunk]:
        chunks = self._beginning(sequence)
        chunks.append(self._chunk(sequence, Delta(), finish_reason(sequence)))
        first = chunks[0]
        sequences = self._generation.sequences
        if self._include_usage and all(one.ended for one in sequences):
            chunks.append(ChatChunk(**self._head, choices=[], usage=usage(sequences)))
        chunks[-1].timings = sequence.timings
        first.verbose = self._written(sequence)
        return chunks

    def _beginning(self, sequence: Sequence) -> list[ChatChunk]:
        """The chunks before a sequence's first text."""
        if not self._is_first(sequence):
            return []
        echo = self._echo(sequence)
        return [self._role(sequence), *([self._chunk(sequence, Delta(content=echo))] if echo else [])]

    def _role(self, sequence: Sequence) -> ChatChunk:
        return self._chunk(sequence, Delta("assistant", None))

    def _chunk(
        self,
        sequence: Sequence,
        delta: Delta,
        finish: str | None = None,
        logprobs: Logprobs | UnsetType = UNSET,
    ) -> ChatChunk:
        return ChatChunk(**self._head, choices=[ChatChunkChoice(finish, sequence.index, delta, logprobs)])


def finish_reason(sequence: Sequence) -> str:
    return "length" if sequence.stop_type == "limit" else "stop"


def step_timings(step: Step) -> Any:
    return step.sequence.timings if step.sequence.settings.timings_per_token and step.progress is None else UNSET


def usage(sequences: Items[Sequence]) -> Usage:
    """A prompt counts once, however many sequences it has."""
    prompts = {id(sequence.prompt): sequence for sequence in sequences}.values()
    prompt_tokens = sum(len(sequence.prompt) for sequence in prompts)
    generated = sum(len(sequence.tokens) for sequence in sequences)
    cached = sum(sequence.cached for sequence in prompts)
    return Usage(generated, prompt_tokens, prompt_tokens + generated, PromptTokensDetails(cached))
