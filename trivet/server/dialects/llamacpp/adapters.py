"""GET and POST /lora-adapters: there are none yet."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


async def list_adapters(service: Service, request: Request) -> Response:
    """No adapters."""
    return Response(b"[]", media_type="application/json")


async def scale_adapters(service: Service, request: Request) -> Response:
    """Set the scales of none of them."""
    given = decode(await read_body(request, service.options.payload_limit), Any)
    if not isinstance(given, list):
        raise Problem(Kind.INVALID, "Request body must be an array")
    if given:
        raise Problem(
            Kind.INVALID, f"LoRA adapters are not supported yet: there is none to scale, got {given[0]!r:.100}"
        )
    return Response(b'{"success":true}', media_type="application/json")
