"""What llama.cpp's server answers and this one does not."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.dialects.llamacpp.errors import NotSupported
from trivet.server.dialects.llamacpp.schemas import ControlBody
from trivet.server.endpoint import Handler, Operation
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

_EMBEDDINGS = "This server does not support embeddings: models only generate text here"
_RERANKING = "This server does not support reranking: models only generate text here"
_ROUTER = "This server does not support routing between models: it serves one, for as long as it runs"
_RESUMING = "This server does not support resuming streams"
_AUDIO = "This server does not support audio input"
_TOOLS = "This server does not support tools of its own"
_PROXY = "This server does not support the CORS proxy"

_PATHS = (
    *((path, "POST", _EMBEDDINGS) for path in ("/embedding", "/embeddings", "/v1/embeddings")),
    *((path, "POST", _RERANKING) for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")),
    *((path, "POST", _AUDIO) for path in ("/audio/transcriptions", "/v1/audio/transcriptions")),
    *((path, "POST", _ROUTER) for path in ("/models", "/models/load", "/models/unload")),
    ("/models/sse", "GET", _ROUTER),
    ("/models", "DELETE", _ROUTER),
    ("/v1/stream", "GET", _RESUMING),
    ("/v1/stream", "DELETE", _RESUMING),
    ("/v1/streams/lookup", "POST", _RESUMING),
    *(("/tools", method, _TOOLS) for method in ("GET", "POST")),
    *(("/cors-proxy", method, _PROXY) for method in ("GET", "POST")),
)


def refusing(message: str) -> Handler:
    async def refuse(service: Service, request: Request) -> Response:
        raise NotSupported(message)

    refuse.__doc__ = f"Refused: {message}."
    return refuse


async def control(service: Service, request: Request) -> Response:
    """Refused: there are no thoughts to end, as no request can ask for control over them."""
    body = decode(await read_body(request, service.options.payload_limit), ControlBody)
    if body.action != "reasoning_end":
        raise Problem(Kind.INVALID, f"action must be 'reasoning_end', got {body.action!r:.100}", "action")
    message = (
        f"no running request of the id {body.id!r:.100} was started with reasoning_control, which is not supported"
    )
    raise Problem(Kind.INVALID, message, "id")


UNSUPPORTED = [
    *(Operation(path, refusing(message), method) for path, method, message in _PATHS),
    Operation("/v1/chat/completions/control", control, body=ControlBody),
]
