"""The requests that generate: native, infill, and the OpenAI API's."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import decode, read_body
from trivet.server.connection import while_connected
from trivet.server.dialects.llamacpp import chat
from trivet.server.dialects.llamacpp.cutoff import Cutoff
from trivet.server.dialects.llamacpp.errors import DIALECT
from trivet.server.dialects.llamacpp.generation import Generation
from trivet.server.dialects.llamacpp.infill import infill_prompt
from trivet.server.dialects.llamacpp.native import NativeAnswer
from trivet.server.dialects.llamacpp.openai_answer import ChatAnswer, TextAnswer
from trivet.server.dialects.llamacpp.parameters import count, draw_seed, sampling_params, settings
from trivet.server.dialects.llamacpp.prompts import encode_prompt, split_prompts
from trivet.server.dialects.llamacpp.results import GenerationSettings
from trivet.server.dialects.llamacpp.schemas import (
    ChatBody,
    CompletionBody,
    GenerationBody,
    InfillBody,
    TextBody,
)
from trivet.server.dialects.llamacpp.slots import slots_of
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


class Answer(Protocol):
    """Writes a generation in one shape, as it goes or (when it has run) as a whole."""

    def events(self) -> AsyncGenerator[bytes, None]: ...

    def whole(self) -> object: ...


async def completion(service: Service, request: Request) -> Response:
    """Complete a prompt, or each of several; the answer is a list where there are several sequences."""
    body = await _read(service, request, CompletionBody)
    given = settings(service, body)
    prompts, as_list = await _prompts(service, body)
    generation = _generation(service, request, body, given, prompts)
    answer = NativeAnswer(
        service,
        generation,
        as_list=as_list,
        return_tokens=bool(body.return_tokens),
        response_fields=body.response_fields or [],
    )
    return await _respond(request, generation, answer)


async def infill(service: Service, request: Request) -> Response:
    """Write what belongs between a prefix and a suffix; for models that have tokens for it."""
    body = await _read(service, request, InfillBody)
    given = settings(service, body)
    prompt = await infill_prompt(service, body, given.n_predict)
    generation = _generation(service, request, body, given, [prompt])
    answer = NativeAnswer(
        service,
        generation,
        return_tokens=bool(body.return_tokens),
        response_fields=body.response_fields or [],
    )
    return await _respond(request, generation, answer)


async def text_completions(service: Service, request: Request) -> Response:
    """The OpenAI API's completions, with llama.cpp's parameters and defaults."""
    body = await _read(service, request, TextBody)
    given = settings(service, body)
    prompts, _ = await _prompts(service, body)
    generation = _generation(service, request, body, given, prompts)
    echoes = [service.llm.tokenizer.decode(prompt, skip_special=True) if body.echo else "" for prompt in prompts]
    answer = TextAnswer(service, generation, echoes=echoes, verbose=bool(body.verbose), include_usage=False)
    return await _respond(request, generation, answer)


async def chat_completions(service: Service, request: Request) -> Response:
    """The OpenAI API's chat completions, with llama.cpp's parameters and defaults."""
    body = await _read(service, request, ChatBody)
    given = settings(service, body)
    text, prefill = await chat.render(service, body)
    generation = _generation(service, request, body, given, [await chat.encode(service, text)])
    options = body.stream_options
    answer = ChatAnswer(
        service,
        generation,
        echoes=[prefill if body.echo else ""],
        verbose=bool(body.verbose),
        include_usage=bool(options and options.include_usage),
    )
    return await _respond(request, generation, answer)


B = TypeVar("B", bound=GenerationBody)


async def _read(service: Service, request: Request, shape: type[B]) -> B:
    return decode(await read_body(request, service.options.payload_limit), shape)


async def _prompts(service: Service, body: CompletionBody) -> tuple[list[list[int]], bool]:
    """Token ids of each prompt, and whether they came as a list of prompts."""
    given, as_list = split_prompts(body.prompt)
    service.check_count(len(given), 1)
    return [await encode_prompt(service, prompt) for prompt in given], as_list


def _generation(
    service: Service,
    request: Request,
    body: GenerationBody,
    given: GenerationSettings,
    prompts: list[list[int]],
) -> Generation:
    n = count(service, body)
    service.check_count(len(prompts), n)
    slot = -1 if body.id_slot is None else body.id_slot
    if not -1 <= slot < len(slots_of(service)):
        message = f"Field 'id_slot': slots go from 0 to {len(slots_of(service)) - 1} (-1: any), got {slot}"
        raise Problem(Kind.INVALID, message, "id_slot")
    draw_seed(given)
    requests = []
    for prompt in prompts:
        service.check_length(prompt)
        params = sampling_params(service, given, n, len(prompt))
        salt = secrets.token_hex(8) if body.cache_prompt is False else ""
        requests.append(
            GenerateRequest(
                prompt,
                params,
                request.state.request_id,
                cache_salt=salt,
                report_progress=given.stream and bool(body.return_progress),
            )
        )
    return Generation(
        service,
        requests,
        given,
        [Cutoff(body.n_indent or 0, body.t_max_predict_ms or 0) for _ in range(len(requests) * n)],
        wanted_slot=slot,
    )


async def _respond(request: Request, generation: Generation, answer: Answer) -> Response:
    if generation.settings.stream:
        return await sse.event_stream(request, answer.events(), DIALECT.error_event, sse.PLAIN)
    await while_connected(request.receive, generation.run())
    return Response(msgspec.json.encode(answer.whole()), media_type="application/json")
