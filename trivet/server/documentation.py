"""docs/dialects.md, made from the dialects' operations, bodies and errors: `python -m trivet.server.documentation`."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec import inspect as shapes

from trivet.server.endpoint import Dialect, Operation
from trivet.server.errors import Kind, Problem
from trivet.server.fields import describe, notes
from trivet.server.openapi import body_shapes, summary
from trivet.server.routing import DIALECTS

TITLES = {"openai": "OpenAI and vLLM", "tgi": "TGI", "llamacpp": "llama.cpp", "anthropic": "Anthropic"}
INTRODUCTION = """\
# Dialects

One port answers all of them. A path that several dialects have goes to the first one below that knows a header of the
request or a key of its body, else to the dialect without either; `--dialect NAME` gives all of a dialect's paths to it
alone.

Where the server has API keys, `/tokenize` asks for one, although vLLM leaves it open. `/chat_tokenize` asks for one,
although TGI leaves it open. A key must be given exactly as it was set, although TGI does not mind upper and lower case.

Vertex AI's variables `AIP_PREDICT_ROUTE`, `AIP_HEALTH_ROUTE`, `AIP_HTTP_PORT` and `AIP_MODE` are not read, although
llama.cpp or TGI read them: give Vertex AI `/vertex`, whose requests are TGI's, and `/health` as the container's routes,
and the port of `--port`.

This page is made by `python -m trivet.server.documentation` from what the server checks requests with.
"""


def page() -> str:
    parts = [INTRODUCTION, shared_paths()]
    for name, (dialect, operations) in DIALECTS.items():
        parts += [f"## {TITLES[name]} (`--dialect {name}`)\n", endpoints(operations), errors(dialect)]
        for shape in unique(shape for operation in operations for shape in body_shapes(operation.body)):
            used = [f"`{operation.path}`" for operation in operations if shape in body_shapes(operation.body)]
            parts += [f"### `{shape.__name__}`: {', '.join(used)}\n", table(("field", "here"), fields(shape))]
    return "\n".join(parts)


def shared_paths() -> str:
    claims: dict[str, list[tuple[str, Operation]]] = {}
    for name, (_, operations) in DIALECTS.items():
        for operation in operations:
            claims.setdefault(f"{operation.method} {operation.path}", []).append((name, operation))
    paths: dict[str, list[str]] = {}
    for path, found in claims.items():
        if len(found) > 1:
            whose = "; ".join(f"{TITLES[name]}: {_keys(operation)}" for name, operation in found)
            paths.setdefault(whose, []).append(f"`{path}`")
    rows = [(", ".join(alike), whose) for whose, alike in paths.items()]
    return table(("shared path", "whose it is"), rows)


def endpoints(operations: typing.Sequence[Operation]) -> str:
    rows = [(f"`{operation.method} {operation.path}`", summary(operation)) for operation in operations]
    return table(("endpoint", "what it does"), rows)


def errors(dialect: Dialect) -> str:
    """The status of each kind of problem, with an example of the body."""
    rows = []
    for kind in Kind:
        response = dialect.error_response(Problem(kind, "…"))
        rows.append((kind.replace("_", " "), str(response.status_code), f"`{bytes(response.body).decode()}`"))
    return table(("problem", "status", "body"), rows)


def fields(shape: type[Struct], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field's name on the wire, those of structs within by their whole path, and what becomes of it."""
    info = shapes.type_info(shape)
    assert isinstance(info, shapes.StructType)
    said = notes(shape)
    for field in info.fields:
        yield f"`{prefix}{field.encode_name}`", describe(said[field.name]) if field.name in said else "supported"
        for inner, mark in _structs(field.type):
            yield from fields(inner, f"{prefix}{field.encode_name}{mark}.")


def table(head: tuple[str, ...], rows: typing.Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def unique(items: typing.Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _structs(kind: shapes.Type, mark: str = "") -> list[tuple[type[Struct], str]]:
    """The structs in a field, with "[]" for each list around them."""
    if isinstance(kind, shapes.Metadata):
        return _structs(kind.type, mark)
    if isinstance(kind, shapes.ListType):
        return _structs(kind.item_type, mark + "[]")
    if isinstance(kind, shapes.UnionType):
        return [found for one in kind.types for found in _structs(one, mark)]
    return [(kind.cls, mark)] if isinstance(kind, shapes.StructType) else []


def _keys(operation: Operation) -> str:
    if operation.pinned:
        return "where it is pinned"
    header = [f"with the header `{operation.header}`"] if operation.header else []
    return ", ".join(header + [f"`{key}`" for key in sorted(operation.keys)]) or "the rest"


if __name__ == "__main__":
    print(page(), end="")
