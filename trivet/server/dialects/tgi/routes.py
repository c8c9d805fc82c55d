"""The routes of TGI's own API."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet import __version__
from trivet.api.outputs import RequestOutput
from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect
from trivet.server.connection import while_connected
from trivet.server.dialects.tgi.answer import Answer
from trivet.server.dialects.tgi.errors import error_event
from trivet.server.dialects.tgi.parameters import check_parameters, generation, max_input_tokens
from trivet.server.dialects.tgi.schemas import CompatBody, GenerateBody, Info, Parameters
from trivet.server.endpoint import Operation
from trivet.server.errors import problem_of
from trivet.server.service import Service


async def compat_generate(service: Service, request: Request) -> Response:
    """What huggingface_hub calls, at whatever URL it was given: the answer is a list of one, with the prompt in it
    unless told otherwise.
    """
    body = await read_json(request, service.options.payload_limit, CompatBody)
    if body.stream:
        return await _stream(service, request, body, full_text=True)
    return await _whole(service, request, body, full_text=True, as_list=True)


async def generate(service: Service, request: Request) -> Response:
    body = await read_json(request, service.options.payload_limit, GenerateBody)
    return await _whole(service, request, body, full_text=False, as_list=False)


async def generate_stream(service: Service, request: Request) -> Response:
    body = await read_json(request, service.options.payload_limit, GenerateBody)
    return await _stream(service, request, body, full_text=False)


async def info(service: Service, request: Request) -> Response:
    facts = service.llm.info
    return Response(
        msgspec.json.encode(
            Info(
                model_id=service.name,
                model_sha=None,
                model_pipeline_tag="text-generation",
                max_concurrent_requests=facts.max_num_seqs,
                max_best_of=service.options.max_best_of,
                max_stop_sequences=service.options.max_stop_strings,
                max_input_tokens=max_input_tokens(service),
                max_total_tokens=service.max_model_len,
                validation_workers=1,
                max_client_batch_size=service.options.max_prompts,
                router="trivet",
                version=__version__,
                sha=None,
                docker_label=None,
                model_dtype=facts.dtype,
                model_device_type=_device(service),
                max_input_length=max_input_tokens(service),
                max_batch_total_tokens=facts.num_blocks * facts.block_size,
                max_batch_size=facts.max_num_seqs,
            )
        ),
        media_type="application/json",
    )


async def _whole(service: Service, request: Request, body: GenerateBody, *, full_text: bool, as_list: bool) -> Response:
    started = time.perf_counter()
    given = _parameters(body)
    check_parameters(service, given, body.inputs, stream=False)
    validated = await generation(service, given, body.inputs)
    checked = time.perf_counter()
    outputs = service.generate(GenerateRequest(validated.prompt, validated.params, request.state.request_id))
    output = await while_connected(request.receive, collect(outputs))
    answer = Answer(service, given, validated, _prefix(body, given, full_text)).whole(output)
    headers = _headers(service, body) | _timings(output, checked - started, time.perf_counter() - started)
    content = msgspec.json.encode([answer] if as_list else answer)
    return Response(content, headers=headers, media_type="application/json")


async def _stream(service: Service, request: Request, body: GenerateBody, *, full_text: bool) -> Response:
    """TGI sends its headers before it looks at the parameters: every error is an event, the status is 200."""

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            given = _parameters(body)
            check_parameters(service, given, body.inputs, stream=True)
            validated = await generation(service, given, body.inputs)
            outputs = service.generate(GenerateRequest(validated.prompt, validated.params, request.state.request_id))
            answer = Answer(service, given, validated, _prefix(body, given, full_text))
            async with aclosing(answer.events(outputs)) as written:
                async for event in written:
                    yield event
        except Exception as error:
            problem = problem_of(error)
            service.count_refusal(problem)
            yield error_event(problem)

    return await sse.event_stream(request, events(), error_event, _headers(service, body))


def _parameters(body: GenerateBody) -> Parameters:
    """Without any parameters TGI samples; with some it is greedy unless they say otherwise."""
    return Parameters(do_sample=True) if body.parameters is None else body.parameters


def _prefix(body: GenerateBody, given: Parameters, default: bool) -> str:
    wanted = default if given.return_full_text is None else given.return_full_text
    return body.inputs if wanted else ""


def _device(service: Service) -> str:
    return service.llm.info.device.split()[0]


def _headers(service: Service, body: GenerateBody) -> dict[str, str]:
    return {"x-compute-type": f"1-{_device(service)}", "x-compute-characters": str(len(body.inputs))}


def _timings(output: RequestOutput, validation: float, total: float) -> dict[str, str]:
    """Durations in milliseconds, but for x-compute-time."""
    generated = sum(len(sequence.token_ids) for sequence in output.outputs)
    times = output.metrics
    queue = times.scheduled_ts - times.queued_ts if times else 0.0
    inference = times.last_token_ts - times.scheduled_ts if times else 0.0
    milliseconds = {
        "x-total-time": total,
        "x-validation-time": validation,
        "x-queue-time": queue,
        "x-inference-time": inference,
        "x-time-per-token": inference / max(1, generated),
    }
    return {
        "x-compute-time": str(round(total, 6)),
        **{name: str(round(seconds * 1000)) for name, seconds in milliseconds.items()},
        "x-prompt-tokens": str(len(output.prompt_token_ids)),
        "x-generated-tokens": str(generated),
    }


OPERATIONS = [
    Operation("/", compat_generate, body=CompatBody, generates=True),
    Operation("/v1", compat_generate, body=CompatBody, generates=True),
    Operation("/generate", generate, body=GenerateBody, generates=True),
    Operation("/generate_stream", generate_stream, body=GenerateBody, generates=True),
    Operation("/info", info, "GET", public=True),
]
