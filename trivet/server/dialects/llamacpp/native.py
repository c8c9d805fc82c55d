"""Answers in the shape of llama.cpp's own completion API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from collections.abc import Sequence as Items
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET

from trivet.server import sse
from trivet.server.dialects.llamacpp.generation import Generation, Sequence, Step
from trivet.server.dialects.llamacpp.models import model_name
from trivet.server.dialects.llamacpp.probabilities import probabilities
from trivet.server.dialects.llamacpp.results import FinalResult, PartialResult
from trivet.server.service import Service


class NativeAnswer:
    """as_list: whether results are a list even if there is one."""

    def __init__(
        self,
        service: Service,
        generation: Generation,
        *,
        as_list: bool = False,
        return_tokens: bool = False,
        response_fields: Items[str] = (),
    ) -> None:
        self._service = service
        self._generation = generation
        self._as_list = as_list
        self._return_tokens = return_tokens
        self._response_fields = response_fields

    def whole(self) -> Any:
        results = []
        for sequence in self._generation.sequences:
            result = final_result(self._service, sequence)
            result.content = sequence.text
            result.tokens = sequence.tokens if self._return_tokens else []
            if sequence.settings.n_probs:
                result.completion_probabilities = probabilities(
                    self._service.llm.tokenizer, sequence.settings, sequence.tokens, sequence.logprobs
                )
            results.append(select_fields(result, self._response_fields))
        return results if self._as_list or len(results) > 1 else results[0]

    async def events(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._generation.steps()) as steps:
            async for step in steps:
                result = (
                    select_fields(final_result(self._service, step.sequence), self._response_fields)
                    if step.sequence.ended
                    else partial_result(self._service, step)
                )
                yield sse.event(msgspec.json.encode(result))


def partial_result(service: Service, step: Step) -> PartialResult:
    sequence, settings = step.sequence, step.sequence.settings
    return PartialResult(
        index=sequence.index,
        content=step.text,
        tokens=step.tokens,
        id_slot=sequence.slot_id,
        tokens_predicted=len(sequence.tokens),
        tokens_evaluated=len(sequence.prompt),
        timings=sequence.timings if settings.timings_per_token and step.progress is None else UNSET,
        prompt_progress=step.progress or UNSET,
        completion_probabilities=probabilities(service.llm.tokenizer, settings, step.tokens, step.logprobs)
        if step.logprobs
        else UNSET,
    )


def final_result(service: Service, sequence: Sequence) -> FinalResult:
    """That of a stream: its content has been told."""
    return FinalResult(
        index=sequence.index,
        content="",
        tokens=[],
        id_slot=sequence.slot_id,
        model=model_name(service),
        tokens_predicted=len(sequence.tokens),
        tokens_evaluated=len(sequence.prompt),
        generation_settings=sequence.settings,
        prompt=service.llm.tokenizer.decode(sequence.prompt),
        has_new_line="\n" in sequence.text,
        truncated=sequence.truncated,
        stop_type=sequence.stop_type,
        stopping_word=sequence.stopping_word,
        tokens_cached=len(sequence.in_cache),
        timings=sequence.timings,
    )


def select_fields(result: FinalResult, paths: Items[str]) -> Any:
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
