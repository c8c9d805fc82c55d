"""Routes for machines that watch the server. None of them needs a key; a dialect that is pinned may have its own."""

from __future__ import annotations

import asyncio
from functools import partial

import prometheus_client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trivet import __version__
from trivet.server.service import Service

UNHEALTHY = "the engine is not running or makes no progress"
DRAINING = "draining: the server finishes what it has, and takes nothing new"
NO_METRICS = {
    "code": 501,
    "message": "This server does not support metrics endpoint. Start it with `--metrics`",
    "type": "not_supported_error",
}
"""llama.cpp's words; only its launcher serves without."""


def routes(service: Service) -> list[Route]:
    async def health(request: Request) -> Response:
        """200 is what vLLM and TGI look at, the body is llama.cpp's."""
        if service.llm.healthy() and not service.draining:
            return JSONResponse({"status": "ok"})
        message = DRAINING if service.draining else UNHEALTHY
        error = {"code": 503, "message": message, "type": "unavailable_error"}
        return JSONResponse({"error": error, "error_type": "healthcheck"}, status_code=503)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def load(request: Request) -> Response:
        """Sequences that are running or waiting."""
        stats = service.llm.stats()
        return JSONResponse({"server_load": stats.running + stats.waiting})

    return [
        Route("/health", health, methods=["GET"]),
        Route("/v1/health", health, methods=["GET"]),
        Route("/ping", health, methods=["GET", "POST"]),
        Route("/version", version, methods=["GET"]),
        Route("/load", load, methods=["GET"]),
        Route("/metrics", partial(metrics, service), methods=["GET"]),
    ]


async def metrics(service: Service, request: Request) -> Response:
    """Tell the metrics, for Prometheus."""
    if not service.options.metrics_endpoint:
        return JSONResponse({"error": NO_METRICS}, status_code=501)
    # In a thread: it would hold up the streams.
    text = await asyncio.to_thread(service.metrics.expose, service.llm.stats())
    headers = {"Process-Start-Time-Unix": str(service.started)}
    return Response(text, 200, headers, prometheus_client.CONTENT_TYPE_PLAIN_0_0_4)
