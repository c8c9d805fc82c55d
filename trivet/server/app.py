"""The HTTP application: every dialect on one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from trivet.server import openapi, probes, routing
from trivet.server.activity import log_activity
from trivet.server.cors import cors
from trivet.server.errors import Kind, Problem
from trivet.server.exchange import Exchanges
from trivet.server.options import ServerOptions
from trivet.server.service import Service
from trivet.server.web import routes as web

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM


def create_app(llm: AsyncLLM, options: ServerOptions | None = None) -> Starlette:
    """An ASGI application that serves `llm`, which must have been started; closing it is the caller's.

    Its `state.service` is the Service.
    """
    options = options or ServerOptions()
    service = Service(llm, options)
    middleware = [Middleware(Exchanges, service)]
    if options.allowed_origins:
        middleware.append(cors(options))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        activity = asyncio.create_task(log_activity(llm))
        yield
        activity.cancel()
        if service.tracer is not None:
            await asyncio.to_thread(service.tracer.close)

    app = Starlette(
        lifespan=lifespan,
        routes=[
            *routing.routes(service),
            *probes.routes(service),
            *openapi.routes(),
            *web.routes(service),
        ],
        middleware=middleware,
        exception_handlers=_unrouted(options.dialect),
    )
    app.state.service = service
    return app


def _unrouted(pinned: str | None) -> dict[Any, ExceptionHandler]:
    """What is told where there is no such path, or no such method of it."""

    def telling(kind: Kind, message: str) -> ExceptionHandler:
        async def tell(request: Request, error: Exception) -> Response:
            if pinned == "llamacpp" and request.method == "OPTIONS":
                return Response()  # llama.cpp's server answers it on all paths, whether a browser's preflight or not.
            problem = Problem(kind, message.format(method=request.method, path=request.url.path))
            response = routing.dialect_of(request, pinned).error_response(problem)
            if isinstance(error, HTTPException) and error.headers:
                response.headers.update(error.headers)
            return response

        return tell

    return {
        404: telling(Kind.NOT_FOUND, "there is nothing at {method} {path}"),
        405: telling(Kind.METHOD, "{path} does not answer {method}"),
    }
