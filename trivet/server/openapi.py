"""The OpenAPI document of every dialect's operations, made from the structs that requests are decoded into."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trivet import __version__
from trivet.server.endpoint import Operation
from trivet.server.fields import describe, notes
from trivet.server.routing import DIALECTS

PATHS = ("/openapi.json", "/api-doc/openapi.json")
"""Where vLLM and TGI have it."""
JSON = "application/json"


def routes() -> list[Route]:
    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    return [Route(path, openapi, methods=["GET"]) for path in PATHS]


@functools.cache
def document() -> dict[str, Any]:
    """An operation of several dialects has a body of any of their shapes."""
    shared: dict[tuple[str, str], list[tuple[str, Operation]]] = {}
    for name, (_, operations) in DIALECTS.items():
        for operation in operations:
            shared.setdefault((operation.path, operation.method), []).append((name, operation))
    shapes = [shape for claims in shared.values() for _, operation in claims for shape in body_shapes(operation.body)]
    schemas, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(shapes, schemas, strict=True))
    for shape, schema in schema_of.items():
        properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
        for name, note in notes(shape).items():
            properties[name]["description"] = describe(note)
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), claims in shared.items():
        plain = path.replace(":path}", "}")
        paths.setdefault(plain, {})[method.lower()] = _operation(plain, claims, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trivet", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def body_shapes(body: Any) -> list[type[Struct]]:
    """The structs of an operation's body: none, one, or those of a union."""
    if body is None:
        return []
    return list(typing.get_args(body)) if isinstance(body, types.UnionType) else [body]


def summary(operation: Operation) -> str:
    """The first paragraph of the handler's docstring."""
    return " ".join((inspect.getdoc(operation.handler) or "").partition("\n\n")[0].split())


def _operation(path: str, claims: list[tuple[str, Operation]], schema_of: dict[type[Struct], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [name for name, _ in claims],
        "summary": " / ".join(filter(None, (summary(operation) for _, operation in claims))),
        "responses": {"200": {"description": "The answer"}, "default": {"description": "An error of the dialect"}},
    }
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    shapes = [schema_of[shape] for _, operation in claims for shape in body_shapes(operation.body)]
    if shapes:
        schema = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if not all(operation.public for _, operation in claims):
        found["security"] = [{}, {"bearer": []}, {"key": []}]
    return found
