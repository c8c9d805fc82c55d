"""POST /generate as vLLM's first server had it: sampling parameters beside the prompt, texts in answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import RequestOutput
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect_all
from trivet.server.connection import while_connected
from trivet.server.dialects.openai.completions import completion_requests, echoes
from trivet.server.dialects.openai.errors import error_body
from trivet.server.dialects.openai.schemas import CompletionBody
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service
from trivet.server.streams import merged


async def generate(service: Service, request: Request) -> Response:
    """Continue a prompt: `{"text": […]}` with the prompt before each of the n texts; a stream has a line for each
    token, with all of the text so far.
    """
    body = await read_json(request, service.options.payload_limit, CompletionBody, strict=False)
    given, asked = await completion_requests(service, request, body, request.state.request_id)
    if len(given) != 1:
        raise Problem(Kind.INVALID, f"prompt must be one prompt, got {len(given)}", "prompt")
    if body.echo:
        raise Problem(Kind.INVALID, "echo is not known here: the prompt is part of every text", "echo")
    [prompt] = echoes(service, given, asked)
    outputs = service.generate(asked[0])
    if body.stream:
        lines = _lines(outputs, prompt, asked[0].params.n)
        return await sse.event_stream(
            request, lines, _error_line, {"Content-Type": "application/x-ndjson"}, keep_alive=b"\n"
        )
    [whole] = await while_connected(request.receive, collect_all(merged([outputs]), 1))
    return Response(_line([prompt + sequence.text for sequence in whole.outputs]), media_type="application/json")


async def _lines(outputs: AsyncGenerator[RequestOutput, None], prompt: str, n: int) -> AsyncGenerator[bytes, None]:
    texts = [prompt] * n
    async with aclosing(outputs):
        async for output in outputs:
            for sequence in output.outputs:
                texts[sequence.index] += sequence.text
            yield _line(texts) + b"\n"


def _line(texts: list[str]) -> bytes:
    return msgspec.json.encode({"text": texts})


def _error_line(problem: Problem) -> bytes:
    return msgspec.json.encode({"error": error_body(problem)}) + b"\n"
