"""POST /apply-template, and counting the tokens of a conversation."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.dialects.llamacpp import chat
from trivet.server.dialects.llamacpp.schemas import ChatBody
from trivet.server.service import Service


async def apply_template(service: Service, request: Request) -> Response:
    """The prompt that a conversation makes."""
    body = decode(await read_body(request, service.options.payload_limit), ChatBody)
    prompt, _ = await chat.render(service, body)
    return Response(msgspec.json.encode({"prompt": prompt}), media_type="application/json")


async def input_tokens(service: Service, request: Request) -> Response:
    """How many tokens a conversation makes."""
    body = decode(await read_body(request, service.options.payload_limit), ChatBody)
    prompt, _ = await chat.render(service, body)
    tokens = await chat.encode(service, prompt)
    answer = {"object": "response.input_tokens", "input_tokens": len(tokens)}
    return Response(msgspec.json.encode(answer), media_type="application/json")
