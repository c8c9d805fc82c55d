"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from trivet.api.request import GenerateRequest
from trivet.sampling.params import SamplingParams
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect
from trivet.server.connection import while_connected
from trivet.server.dialects.openai.requests import (
    check_logprobs,
    check_model,
    check_request,
    max_output_tokens,
    sampling_params,
)
from trivet.server.dialects.openai.responses.answer import ResponseAnswer
from trivet.server.dialects.openai.responses.conversation import input_items, prompt_tokens
from trivet.server.dialects.openai.responses.schemas import InputTokens, InputTokensBody, Item, ResponsesBody
from trivet.server.dialects.openai.responses.stored import check_include, find, play
from trivet.server.dialects.openai.schemas import ChatBody
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.records import records_of
from trivet.server.service import Service

LOGPROBS = "message.output_text.logprobs"
SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("logit_bias", "seed", "stop", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens"),
)
"""Fields that mean here what they mean in a chat."""


Sampling = Callable[[Service, ResponsesBody, int, int | None], SamplingParams]
"""What to sample with, after a prompt of so many tokens, with so many log-probabilities beside each token's own."""


async def create_response(service: Service, request: Request) -> Response:
    """Answer an input, whole, streamed, in the background or both."""
    return await respond(service, request, sampling)


async def respond(service: Service, request: Request, sampling: Sampling) -> Response:
    """Answer as `create_response` does."""
    body = await read_json(request, service.options.payload_limit, ResponsesBody, strict=False)
    check_request(service, _as_chat(body))
    check_response(service, body)
    items = conversation(service, body)
    prompt = await prompt_tokens(service, body, items)
    service.check_length(prompt)
    with_logprobs = body.top_logprobs or LOGPROBS in (body.include or [])
    params = sampling(service, body, len(prompt), (body.top_logprobs or 0) if with_logprobs else None)
    response_id = body.request_id or f"resp_{uuid.uuid4().hex}"
    outputs = service.generate(
        GenerateRequest(
            prompt=prompt,
            params=params,
            request_id=response_id,
            priority=body.priority or 0,
            cache_salt=body.cache_salt or "",
        )
    )
    answer = ResponseAnswer(service, body, response_id, items, params)
    if body.background:
        queued, records = answer.queued(), records_of(service)
        recording = records.record(response_id)
        records.start(response_id, answer.in_background(outputs, recording))
        if body.stream:
            return await play(request, recording)
        return json_response(queued)
    if body.stream:
        return await sse.event_stream(request, answer.events(outputs), answer.error_event)
    return json_response(answer.whole(await while_connected(request.receive, collect(outputs))))


def sampling(service: Service, body: ResponsesBody, prompt_len: int, logprobs: int | None) -> SamplingParams:
    """As in a chat. Raises RequestError."""
    max_tokens = max_output_tokens(service, body.max_output_tokens, "max_output_tokens", prompt_len)
    return sampling_params(service, _as_chat(body), max_tokens, logprobs)


async def count_input_tokens(service: Service, request: Request) -> Response:
    """Count the tokens of a response's prompt."""
    body = await read_json(request, service.options.payload_limit, InputTokensBody, strict=False)
    check_model(service, body.model)
    refuse_unsupported(body)
    prompt = await prompt_tokens(service, body, conversation(service, body))
    return json_response(InputTokens(len(prompt)))


def conversation(service: Service, body: InputTokensBody) -> list[Item]:
    """The input, after what the previous response was made of and its output."""
    items = input_items(body.input)
    if body.previous_response_id is None:
        return items
    previous = find(service, body.previous_response_id, "previous_response_id")
    status = previous.response.status
    if status not in ("completed", "incomplete"):
        message = f"The response {body.previous_response_id!r} cannot be gone on with, for it is {status}."
        raise Problem(Kind.INVALID, message, "previous_response_id")
    return [*previous.input, *previous.response.output, *items]


def _as_chat(body: ResponsesBody) -> ChatBody:
    """A chat with the same options."""
    return ChatBody(messages=[], **{name: getattr(body, name) for name in (*SAMPLING_FIELDS, "model", "cache_salt")})


def check_response(service: Service, body: ResponsesBody) -> None:
    """Refuse what is not supported, and fields that contradict each other."""
    refuse_unsupported(body)
    check_logprobs(service, body.top_logprobs, "top_logprobs")
    check_include(body.include or [])
    if body.background and body.store is False:
        raise Problem(Kind.INVALID, "background can only be used when `store` is true", "background")
    if body.request_id is not None and records_of(service).get(body.request_id) is not None:
        raise Problem(Kind.INVALID, f"there is a response {body.request_id!r} already", "request_id")
