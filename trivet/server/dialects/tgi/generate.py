"""POST /generate and /generate_stream, and / where both are one: TGI's own API."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import read_json
from trivet.server.dialects.tgi.answer import Answer
from trivet.server.dialects.tgi.errors import error_event
from trivet.server.dialects.tgi.parameters import generation
from trivet.server.dialects.tgi.respond import compute_headers, compute_time, run, stream, timing_headers
from trivet.server.dialects.tgi.schemas import CompatBody, GenerateBody, Parameters
from trivet.server.json_response import json_response
from trivet.server.service import Service


async def compat_generate(service: Service, request: Request) -> Response:
    """Continue a text, streamed or not: what huggingface_hub calls, at whatever URL it was given.

    The answer is a list of one. The prompt is in it unless told otherwise.
    """
    body = await read_json(request, service.options.payload_limit, CompatBody)
    if body.stream:
        return await _stream(service, request, body, full_text=True)
    return await _whole(service, request, body, full_text=True, as_list=True)


async def generate(service: Service, request: Request) -> Response:
    """Continue a text."""
    body = await read_json(request, service.options.payload_limit, GenerateBody)
    return await _whole(service, request, body, full_text=False, as_list=False)


async def generate_stream(service: Service, request: Request) -> Response:
    """Continue a text, token by token."""
    body = await read_json(request, service.options.payload_limit, GenerateBody)
    return await _stream(service, request, body, full_text=False)


def parameters(body: GenerateBody) -> Parameters:
    """Without any parameters TGI samples; with some it is greedy unless they say otherwise."""
    return Parameters(do_sample=True) if body.parameters is None else body.parameters


async def _whole(service: Service, request: Request, body: GenerateBody, *, full_text: bool, as_list: bool) -> Response:
    started = time.perf_counter()
    given = parameters(body)
    validated = await generation(service, given, body.inputs)
    [output] = await run(service, request, [validated])
    answer = Answer(service, given, validated, _prefix(body, given, full_text)).whole(output)
    headers = compute_headers(service, body.inputs) | timing_headers(started, [validated], [output])
    return json_response([answer] if as_list else answer, headers | compute_time(started))


async def _stream(service: Service, request: Request, body: GenerateBody, *, full_text: bool) -> Response:
    async def events() -> AsyncGenerator[bytes, None]:
        given = parameters(body)
        validated = await generation(service, given, body.inputs, stream=True)
        outputs = service.generate(validated.request(request.state.request_id))
        answer = Answer(service, given, validated, _prefix(body, given, full_text))
        async with aclosing(answer.events(outputs)) as written:
            async for event in written:
                yield event

    return await stream(service, request, events(), error_event, body.inputs)


def _prefix(body: GenerateBody, given: Parameters, default: bool) -> str:
    wanted = default if given.return_full_text is None else given.return_full_text
    return body.inputs if wanted else ""
