"""From a dialect's handler to an endpoint: keys, errors and clients that leave are handled here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.auth import check_key
from trivet.server.caller import note_caller
from trivet.server.errors import SHUTTING_DOWN, ClientGone, Problem, problem_of
from trivet.server.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]
CLIENT_GONE = 499
"""Status, in logs only, of what nobody waited for."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect tells of a problem: as a response, and as the last event of a stream that has begun. `server` is
    the name that its answers give of what made them, for clients that look at it. late: its handlers call
    `Service.check_open` themselves, as a stream of its tells even of overload in an event.
    """

    error_response: Callable[[Problem], Response]
    error_event: Callable[[Problem], bytes]
    server: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a dialect answers.

    body: the shape of the request's body, or several it may have; it goes into the documentation.
    generates: it runs the model, and counts as a request. public: it needs no key.
    keys: where dialects share a path, a body with one of these keys is for this operation; header: a request with
        this header is. Without either it takes what the others leave.
    pinned: it is there only where its dialect is pinned; something else has the path otherwise.
    """

    path: str
    handler: Handler
    method: str = "POST"
    body: Any = None
    generates: bool = False
    public: bool = False
    keys: frozenset[str] = frozenset()
    pinned: bool = False
    header: str = ""


def endpoint(service: Service, dialect: Dialect, operation: Operation) -> Endpoint:
    """Wrap an operation's handler."""

    async def answer(request: Request) -> Response:
        try:
            if not operation.public:
                note_caller(request, check_key(request, service.options.api_keys))
            if operation.generates:
                service.metrics.count("requests")
                if not dialect.late:
                    service.check_open()
            return await operation.handler(service, request)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:
            return dialect.error_response(SHUTTING_DOWN)
        except Exception as error:
            problem = problem_of(error)
            if operation.generates:
                service.count_refusal(problem)
            return dialect.error_response(problem)

    async def run(request: Request) -> Response:
        response = await answer(request)
        if dialect.server:
            response.headers["Server"] = dialect.server
        return response

    return run
