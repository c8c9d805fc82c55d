"""Writes the engine's outputs as a response, or as the events that make one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.sampling.params import SamplingParams
from trivet.server import sse
from trivet.server.collect import Collected
from trivet.server.dialects.openai.answers import TokenLogprob
from trivet.server.dialects.openai.logprobs import LogprobsWriter
from trivet.server.dialects.openai.requests import model_name
from trivet.server.dialects.openai.responses.conversation import new_item_id
from trivet.server.dialects.openai.responses.events import (
    Completed,
    Created,
    Event,
    Failed,
    Incomplete,
    InProgress,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    Queued,
    TextDelta,
    TextDone,
)
from trivet.server.dialects.openai.responses.schemas import (
    IncompleteDetails,
    InputTokensDetails,
    Item,
    OutputText,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponsesBody,
    StoredResponse,
    Usage,
)
from trivet.server.errors import Kind, Problem, problem_of
from trivet.server.recording import Recording
from trivet.server.records import records_of
from trivet.server.service import Service

_ERROR_CODES = {
    Kind.OVERLOADED: "rate_limit_exceeded",
    Kind.INVALID: "invalid_prompt",
    Kind.PROMPT_TOO_LONG: "invalid_prompt",
}


class ResponseAnswer:
    """One response from its creation to its end; it is kept in the service's records if the request wants that.

    items: the conversation so far. params: what it is sampled with.
    """

    def __init__(
        self, service: Service, body: ResponsesBody, response_id: str, items: list[Item], params: SamplingParams
    ) -> None:
        self._records = records_of(service)
        self._items = items
        self._item_id = new_item_id()
        self._logprobs = LogprobsWriter(service.llm.tokenizer, body.top_logprobs or 0, as_ids=False)
        self._events = 0
        self._response = Response(
            id=response_id,
            created_at=int(time.time()),
            status="in_progress",
            background=bool(body.background),
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            max_tool_calls=body.max_tool_calls,
            model=model_name(service, body.model),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=body.previous_response_id,
            prompt_cache_key=body.prompt_cache_key,
            reasoning={"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            safety_identifier=body.safety_identifier,
            store=body.store is not False,
            temperature=params.temperature,
            tool_choice=body.tool_choice or "auto",
            top_logprobs=body.top_logprobs or 0,
            top_p=params.top_p,
            truncation=body.truncation or "disabled",
            user=body.user,
            metadata=body.metadata or {},
        )

    def queued(self) -> Response:
        return self._kept(status="queued")

    def whole(self, output: RequestOutput) -> Response:
        [sequence] = output.outputs
        complete = sequence.finish_reason != "length"
        status = "completed" if complete else "incomplete"
        text = OutputText(sequence.text, logprobs=self._written(sequence))
        prompt_tokens, output_tokens = len(output.prompt_token_ids), len(sequence.token_ids)
        return self._kept(
            status=status,
            completed_at=int(time.time()) if complete else None,
            incomplete_details=None if complete else IncompleteDetails("max_output_tokens"),
            output=[Item(self._item_id, status, "assistant", [text])],
            usage=Usage(
                prompt_tokens,
                InputTokensDetails(output.num_cached_tokens),
                output_tokens,
                OutputTokensDetails(),
                prompt_tokens + output_tokens,
            ),
        )

    def failed(self, problem: Problem) -> Response:
        error = ResponseError(_ERROR_CODES.get(problem.kind, "server_error"), problem.message)
        return self._kept(status="failed", error=error)

    async def events(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        collected = Collected()
        begun = False
        async with aclosing(outputs):
            if self._response.background:
                queued = self.queued()
                yield self._event(Created(response=queued))
                yield self._event(Queued(response=queued))
            async for output in outputs:
                if not begun:
                    begun = True
                    for event in self._begin():
                        yield event
                    yield self._event(ItemAdded(item=Item(self._item_id, "in_progress", "assistant", [])))
                    yield self._event(PartAdded(item_id=self._item_id, part=OutputText("")))
                collected.add(output)
                [sequence] = output.outputs
                logprobs = self._written(sequence)
                if sequence.text or logprobs:
                    yield self._event(TextDelta(item_id=self._item_id, delta=sequence.text, logprobs=logprobs))
        response = self.whole(collected.whole())
        [item] = response.output
        [part] = item.content
        assert isinstance(part, OutputText)
        yield self._event(TextDone(item_id=self._item_id, text=part.text, logprobs=part.logprobs))
        yield self._event(PartDone(item_id=self._item_id, part=part))
        yield self._event(ItemDone(item=item))
        end = Completed if response.status == "completed" else Incomplete
        yield self._event(end(response=response))

    def error_event(self, problem: Problem) -> bytes:
        """The end of a stream that fails."""
        return b"".join(self._failure(problem))

    async def in_background(self, outputs: AsyncGenerator[RequestOutput, None], recording: Recording) -> None:
        """Keep in the records how far the response has come, and record its events."""
        try:
            async with aclosing(self.events(outputs)) as events:
                async for event in events:
                    recording.add(event)
        except Exception as error:
            for event in self._failure(problem_of(error)):
                recording.add(event)
        finally:
            recording.end()

    def _begin(self) -> Iterator[bytes]:
        if self._response.background:
            self._kept()
        else:
            yield self._event(Created(response=self._response))
        yield self._event(InProgress(response=self._response))

    def _failure(self, problem: Problem) -> Iterator[bytes]:
        if not self._events:
            yield from self._begin()
        yield self._event(Failed(response=self.failed(problem)))

    def _kept(self, **news: Any) -> Response:
        """The response with its news."""
        response = msgspec.structs.replace(self._response, **news)
        if response.store:
            self._records.put(response.id, msgspec.json.encode(StoredResponse(response, self._items)))
        return response

    def _event(self, event: Event) -> bytes:
        event.sequence_number = self._events
        self._events += 1
        return sse.named_event(event)

    def _written(self, sequence: CompletionOutput) -> list[TokenLogprob]:
        if sequence.logprobs is None:
            return []
        return self._logprobs.chat(sequence.token_ids, sequence.logprobs).content
