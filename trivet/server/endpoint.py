"""From a dialect's handler to an endpoint: keys, errors and clients that leave are handled here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.auth import check_key
from trivet.server.errors import SHUTTING_DOWN, ClientGone, Problem, problem_of
from trivet.server.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]
CLIENT_GONE = 499
"""Status, in logs only, of what nobody waited for."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect tells of a problem: as a response, and as the last event of a stream that has begun."""

    error_response: Callable[[Problem], Response]
    error_event: Callable[[Problem], bytes]


def endpoint(
    service: Service, dialect: Dialect, handler: Handler, *, generates: bool = False, public: bool = False
) -> Endpoint:
    """Wrap `handler`. `generates`: it runs the model, and counts as a request. `public`: it needs no key."""

    async def run(request: Request) -> Response:
        try:
            if not public:
                check_key(request, service.options.api_keys)
            if generates:
                service.metrics.count("requests")
            return await handler(service, request)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:
            return dialect.error_response(SHUTTING_DOWN)
        except Exception as error:
            problem = problem_of(error)
            if generates:
                service.count_refusal(problem)
            return dialect.error_response(problem)

    return run
