"""What the answers to all of TGI's requests have in common: their headers, and how streams tell of errors."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import RequestOutput
from trivet.server import sse
from trivet.server.collect import collect_all
from trivet.server.connection import while_connected
from trivet.server.dialects.tgi.parameters import Generation
from trivet.server.errors import Problem, problem_of
from trivet.server.service import Service
from trivet.server.streams import merged


async def stream(
    service: Service,
    request: Request,
    events: AsyncGenerator[bytes, None],
    error_event: Callable[[Problem], bytes],
    inputs: str | list[str],
) -> Response:
    """TGI sends its headers before it looks at the parameters: every error is an event, the status is 200."""

    async def guarded() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except Exception as error:
            problem = problem_of(error)
            service.count_refusal(problem)
            yield error_event(problem)

    headers = sse.PLAIN | compute_headers(service, inputs)
    return await sse.event_stream(request, guarded(), error_event, headers)


async def run(service: Service, request: Request, generations: Sequence[Generation]) -> list[RequestOutput]:
    """The whole outputs, in the order of the requests."""
    outputs = merged([service.generate(one.request(request.state.request_id)) for one in generations])
    return await while_connected(request.receive, collect_all(outputs, len(generations)))


def device(service: Service) -> str:
    return service.llm.info.device.split()[0]


def compute_headers(service: Service, inputs: str | list[str]) -> dict[str, str]:
    """What is known before anything is generated."""
    return {
        "x-compute-type": f"1-{device(service)}",
        "x-compute-characters": str(len(inputs) if isinstance(inputs, str) else sum(map(len, inputs))),
    }


def timing_headers(
    started: float, generations: Sequence[Generation], outputs: Sequence[RequestOutput]
) -> dict[str, str]:
    """Of all prompts together, in milliseconds. `started` is of `time.perf_counter`."""
    times = [output.metrics for output in outputs if output.metrics is not None]
    inference = sum(one.last_token_ts - one.scheduled_ts for one in times)
    generated = sum(len(sequence.token_ids) for output in outputs for sequence in output.outputs)
    seconds = {
        "x-total-time": time.perf_counter() - started,
        "x-validation-time": sum(one.validation for one in generations),
        "x-queue-time": sum(one.scheduled_ts - one.queued_ts for one in times),
        "x-inference-time": inference,
        "x-time-per-token": inference / max(1, generated),
    }
    return {name: str(round(value * 1000)) for name, value in seconds.items()} | {
        "x-prompt-tokens": str(sum(len(output.prompt_token_ids) for output in outputs)),
        "x-generated-tokens": str(generated),
    }


def compute_time(started: float) -> dict[str, str]:
    """In seconds; of single prompts only."""
    return {"x-compute-time": str(round(time.perf_counter() - started, 6))}
