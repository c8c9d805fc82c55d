"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.api.request import GenerateRequest
from trivet.sampling.params import VLLM_STAGES, SamplingParams
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect
from trivet.server.connection import while_connected
from trivet.server.dialects.anthropic.conversation import prompt_tokens
from trivet.server.dialects.anthropic.errors import DIALECT
from trivet.server.dialects.anthropic.schemas import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    CountTokensBody,
    Message,
    MessageDelta,
    MessagesBody,
    MessageStart,
    MessageStop,
    Ping,
    StopDelta,
    TextBlock,
    TextDelta,
    TokenCount,
    Usage,
)
from trivet.server.dialects.openai.requests import check_model, model_name
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service

PING = sse.named_event(Ping())


class Reasons(NamedTuple):
    """What to call an end by the limit on tokens and by a stop string."""

    limit: str
    stop: str


async def messages(service: Service, request: Request) -> Response:
    """Continue a conversation by one message."""
    body = await read_json(request, service.options.payload_limit, MessagesBody)
    check_model(service, body.model)
    refuse_unsupported(body)
    check_options(service, body)
    prompt = await prompt_tokens(service, body)
    service.check_length(prompt)
    room = service.max_model_len - len(prompt)
    params = sampling_params(service, body, min(body.max_tokens, room))
    reasons = Reasons("max_tokens" if body.max_tokens <= room else "model_context_window_exceeded", "stop_sequence")
    answer = MessageAnswer(f"msg_{request.state.request_id}", model_name(service, body.model), reasons)
    return await reply(service, request, answer, prompt, params, bool(body.stream))


async def reply(
    service: Service, request: Request, answer: MessageAnswer, prompt: list[int], params: SamplingParams, stream: bool
) -> Response:
    """Generate the answer, whole or streamed."""
    outputs = service.generate(GenerateRequest(prompt=prompt, params=params, request_id=answer.id))
    if stream:
        return await sse.event_stream(request, answer.events(outputs), DIALECT.error_event, keep_alive=PING)
    whole = await while_connected(request.receive, collect(outputs))
    return json_response(answer.whole(whole))


async def count_tokens(service: Service, request: Request) -> Response:
    """Count the tokens of a conversation's prompt."""
    body = await read_json(request, service.options.payload_limit, CountTokensBody)
    check_model(service, body.model)
    refuse_unsupported(body)
    prompt = await prompt_tokens(service, body)
    return json_response(TokenCount(len(prompt)))


def check_options(service: Service, body: MessagesBody) -> None:
    """Refuse what is out of this API's ranges; what is out of any API's, the sampling parameters refuse."""
    if not 1 <= body.max_tokens <= service.max_model_len:
        raise Problem(
            Kind.INVALID,
            f"max_tokens: must be between 1 and {service.max_model_len}, the maximum allowed number of output tokens "
            f"for {body.model}, got {body.max_tokens}",
            "max_tokens",
        )
    if body.temperature is not None and not 0 <= body.temperature <= 1:
        raise Problem(Kind.INVALID, f"temperature: must be between 0 and 1, got {body.temperature}", "temperature")
    stops, most = body.stop_sequences or [], service.options.max_stop_strings
    if len(stops) > most or "" in stops:
        raise Problem(Kind.INVALID, f"stop_sequences: must be at most {most} non-empty strings", "stop_sequences")


def sampling_params(service: Service, body: MessagesBody, max_tokens: int) -> SamplingParams:
    """What is not given is as the model's makers recommend. Raises RequestError for what is out of range."""
    given: dict[str, Any] = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "stop": body.stop_sequences,
    }
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"max_tokens": max_tokens, "stages": VLLM_STAGES}
    return SamplingParams(**service.llm.recommended_params | given)


class MessageAnswer:
    """Writes the engine's outputs as a message of `model`, or as the events that make one."""

    def __init__(self, message_id: str, model: str, reasons: Reasons) -> None:
        self.id = message_id
        self._model = model
        self._reasons = reasons

    def whole(self, output: RequestOutput) -> Message:
        [sequence] = output.outputs
        end = self._end(sequence)
        usage = _usage(output, len(sequence.token_ids))
        return self._message([TextBlock(sequence.text)], end.stop_reason, end.stop_sequence, usage)

    async def events(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        usage: Usage | None = None
        async with aclosing(outputs):
            async for output in outputs:
                [sequence] = output.outputs
                if usage is None:
                    usage = _usage(output, len(sequence.token_ids))
                    yield sse.named_event(MessageStart(self._message([], None, None, usage)))
                    yield sse.named_event(ContentBlockStart(0, TextBlock("")))
                    yield PING
                else:
                    usage.output_tokens += len(sequence.token_ids)
                if sequence.text:
                    yield sse.named_event(ContentBlockDelta(0, TextDelta(sequence.text)))
                if sequence.finish_reason is not None:
                    yield sse.named_event(ContentBlockStop(0))
                    yield sse.named_event(MessageDelta(self._end(sequence), usage))
                    yield sse.named_event(MessageStop())

    def _message(
        self, content: list[TextBlock], stop_reason: str | None, stop_sequence: str | None, usage: Usage
    ) -> Message:
        return Message(
            id=self.id,
            model=self._model,
            content=content,
            stop_reason=stop_reason,
            stop_sequence=stop_sequence,
            usage=usage,
        )

    def _end(self, sequence: CompletionOutput) -> StopDelta:
        if sequence.finish_reason == "length":
            return StopDelta(self._reasons.limit, None)
        if isinstance(sequence.stop_reason, str):
            return StopDelta(self._reasons.stop, sequence.stop_reason)
        return StopDelta("end_turn", None)


def _usage(output: RequestOutput, output_tokens: int) -> Usage:
    cached = output.num_cached_tokens
    return Usage(
        input_tokens=len(output.prompt_token_ids) - cached, cache_read_input_tokens=cached, output_tokens=output_tokens
    )
