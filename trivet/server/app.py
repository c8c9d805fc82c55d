"""The HTTP application: every dialect on one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from trivet.server import openapi, probes, routing
from trivet.server.activity import log_activity
from trivet.server.dialects.openai import errors as openai_errors
from trivet.server.errors import Kind, Problem
from trivet.server.middleware import AccessLog, RequestId
from trivet.server.options import ServerOptions
from trivet.server.service import Service
from trivet.server.web import routes as web

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM


def create_app(llm: AsyncLLM, options: ServerOptions | None = None) -> Starlette:
    """An ASGI application that serves `llm`, which must have been started; closing it is the caller's."""
    options = options or ServerOptions()
    service = Service(llm, options)
    middleware = [Middleware(RequestId)]
    if options.log_requests:
        middleware.append(Middleware(AccessLog))
    if options.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=options.allowed_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Request-Id"],
            )
        )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        activity = asyncio.create_task(log_activity(llm))
        yield
        activity.cancel()

    return Starlette(
        lifespan=lifespan,
        routes=[
            *routing.routes(service),
            *probes.routes(service),
            *openapi.routes(),
            *web.routes(service),
        ],
        middleware=middleware,
        exception_handlers={404: _not_found, 405: _wrong_method},
    )


async def _not_found(request: Request, error: Exception) -> Response:
    problem = Problem(Kind.NOT_FOUND, f"there is nothing at {request.method} {request.url.path}")
    return openai_errors.error_response(problem)


async def _wrong_method(request: Request, error: Exception) -> Response:
    problem = Problem(Kind.METHOD, f"{request.url.path} does not answer {request.method}")
    response = openai_errors.error_response(problem)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
