"""The shape of errors, llama.cpp's."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from trivet.server import sse
from trivet.server.endpoint import Dialect
from trivet.server.errors import Kind, Problem

_STATUS = {
    Kind.SYNTAX: (400, "invalid_request_error"),
    Kind.SCHEMA: (400, "invalid_request_error"),
    Kind.CONTENT_TYPE: (400, "invalid_request_error"),
    Kind.BODY_TOO_LARGE: (413, "invalid_request_error"),
    Kind.UNAUTHORIZED: (401, "authentication_error"),
    Kind.INVALID: (400, "invalid_request_error"),
    Kind.PROMPT_TOO_LONG: (400, "exceed_context_size_error"),
    Kind.NOT_FOUND: (404, "not_found_error"),
    Kind.METHOD: (405, "invalid_request_error"),
    Kind.OVERLOADED: (429, "unavailable_error"),
    Kind.UNAVAILABLE: (503, "unavailable_error"),
    Kind.TIMEOUT: (504, "timeout_error"),
    Kind.ENGINE: (500, "server_error"),
    Kind.INTERNAL: (500, "server_error"),
}
_NOT_SUPPORTED = (501, "not_supported_error")


class NotSupported(Problem):
    """What this server, or this model, cannot do at all, whatever the request says."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.INVALID, message)


def error_body(problem: Problem) -> dict[str, Any]:
    status, name = _NOT_SUPPORTED if isinstance(problem, NotSupported) else _STATUS[problem.kind]
    if problem.kind is not Kind.PROMPT_TOO_LONG:
        return {"code": status, "message": problem.message, "type": name}
    return {
        "code": status,
        "message": f"request ({problem.prompt_tokens} tokens) exceeds the available context size "
        f"({problem.max_tokens} tokens), try increasing it",
        "type": name,
        "n_prompt_tokens": problem.prompt_tokens,
        "n_ctx": problem.max_tokens,
    }


def error_response(problem: Problem) -> Response:
    body = error_body(problem)
    return Response(msgspec.json.encode({"error": body}), body["code"], problem.headers, media_type="application/json")


def error_event(problem: Problem) -> bytes:
    return sse.event(msgspec.json.encode({"error": error_body(problem)}))


DIALECT = Dialect(error_response, error_event, server="llama.cpp")
