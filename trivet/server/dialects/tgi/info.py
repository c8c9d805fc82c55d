"""What the server tells of itself: /info, /health and /v1/models."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet import __version__
from trivet.server.dialects.tgi.errors import error_response
from trivet.server.dialects.tgi.respond import device
from trivet.server.dialects.tgi.schemas import Info, Model, Models
from trivet.server.errors import Kind, Problem
from trivet.server.json_response import json_response
from trivet.server.service import Service

UNHEALTHY = Problem(Kind.UNAVAILABLE, "unhealthy")


async def info(service: Service, request: Request) -> Response:
    """Tell the model and the limits of requests."""
    facts, options = service.llm.info, service.options
    return json_response(
        Info(
            model_id=service.name,
            max_concurrent_requests=facts.max_requests,
            max_best_of=options.max_best_of,
            max_stop_sequences=options.max_stop_strings,
            max_input_tokens=service.max_input_tokens,
            max_total_tokens=service.max_model_len,
            max_client_batch_size=options.max_client_batch_size,
            version=__version__,
            model_dtype=facts.dtype,
            model_device_type=device(service),
            max_input_length=service.max_input_tokens,
            max_batch_total_tokens=facts.num_blocks * facts.block_size,
            max_batch_size=facts.max_num_seqs,
        )
    )


async def health(service: Service, request: Request) -> Response:
    """Tell by the status alone whether the engine works."""
    return Response() if service.llm.healthy() and not service.draining else error_response(UNHEALTHY)


async def models(service: Service, request: Request) -> Response:
    """Tell the one model."""
    return json_response(Models(data=[Model(id=service.name, owned_by=service.name)]))
