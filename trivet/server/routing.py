"""Which dialect answers: by path, and by a header or the body's keys where several have the same one."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.server.body import body_keys, read_body
from trivet.server.dialects.anthropic.errors import DIALECT as ANTHROPIC
from trivet.server.dialects.anthropic.routes import OPERATIONS as ANTHROPIC_OPERATIONS
from trivet.server.dialects.llamacpp.errors import DIALECT as LLAMACPP
from trivet.server.dialects.llamacpp.routes import OPERATIONS as LLAMACPP_OPERATIONS
from trivet.server.dialects.openai.errors import DIALECT as OPENAI
from trivet.server.dialects.openai.routes import OPERATIONS as OPENAI_OPERATIONS
from trivet.server.dialects.tgi.errors import DIALECT as TGI
from trivet.server.dialects.tgi.routes import OPERATIONS as TGI_OPERATIONS
from trivet.server.endpoint import Dialect, Endpoint, Operation, endpoint
from trivet.server.errors import ClientGone, Problem
from trivet.server.service import Service

DIALECTS: dict[str, tuple[Dialect, Sequence[Operation]]] = {
    "openai": (OPENAI, OPENAI_OPERATIONS),
    "tgi": (TGI, TGI_OPERATIONS),
    "llamacpp": (LLAMACPP, LLAMACPP_OPERATIONS),
    "anthropic": (ANTHROPIC, ANTHROPIC_OPERATIONS),
}
"""In the order in which they claim a path that they share."""


def routes(service: Service) -> list[Route]:
    """Every dialect's operations; those of `ServerOptions.dialect` take all of their paths for themselves."""
    claims: dict[tuple[str, str], list[tuple[str, Operation]]] = {}
    pinned = service.options.dialect
    for name, (_, operations) in DIALECTS.items():
        for operation in operations:
            if name == pinned or not operation.pinned:
                claims.setdefault((operation.path, operation.method), []).append((name, operation))
    table = []
    for (path, method), found in claims.items():
        own = [claim for claim in found if claim[0] == pinned] or found
        endpoints = [(operation, endpoint(service, DIALECTS[name][0], operation)) for name, operation in own]
        table.append(Route(path, _shared(service, endpoints), methods=[method]))
    return table


def dialect_of(request: Request, pinned: str | None) -> Dialect:
    """Whose client sent a request that no operation is for: the pinned one's, or of those that have its path, or else
    of all, the one's that its headers tell, or the first that asks for no more than the path.
    """
    if pinned:
        return DIALECTS[pinned][0]
    everyone = [(name, operation) for name, (_, own) in DIALECTS.items() for operation in own if not operation.pinned]
    route = request.scope.get("route")
    path = route.path if isinstance(route, Route) else ""
    claims = [(name, operation) for name, operation in everyone if operation.path == path] or everyone
    told = [name for name, operation in claims if operation.header and operation.header in request.headers]
    plain = [name for name, operation in claims if not operation.keys and not operation.header]
    return DIALECTS[(told or plain)[0]][0]


def _shared(service: Service, endpoints: list[tuple[Operation, Endpoint]]) -> Endpoint:
    """The one endpoint, or one that looks at the headers and the body's keys to choose."""
    plain = (run for operation, run in endpoints if not operation.keys and not operation.header)
    rest = next(plain, endpoints[0][1])
    marked = [(operation.header, run) for operation, run in endpoints if operation.header]
    keyed = [(operation.keys, run) for operation, run in endpoints if operation.keys]
    if len(endpoints) == 1 or not (marked or keyed):
        return rest

    async def choose(request: Request) -> Response:
        for header, run in marked:
            if header in request.headers:
                return await run(request)
        if not keyed:
            return await rest(request)
        try:
            present = body_keys(await read_body(request, service.options.payload_limit))
        except (Problem, ClientGone):
            return await rest(request)
        return await next((run for keys, run in keyed if not keys.isdisjoint(present)), rest)(request)

    return choose
