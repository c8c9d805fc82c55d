"""The shape of errors: JSON for what TGI's own validation says, plain text for what its HTTP layer says."""

from __future__ import annotations

import msgspec
from starlette.responses import PlainTextResponse, Response

from trivet.server import sse
from trivet.server.endpoint import Dialect
from trivet.server.errors import Kind, Problem

_JSON = {
    Kind.INVALID: (422, "validation"),
    Kind.PROMPT_TOO_LONG: (422, "validation"),
    Kind.OVERLOADED: (429, "overloaded"),
    Kind.ENGINE: (424, "generation"),
    Kind.INTERNAL: (424, "generation"),
    Kind.UNAVAILABLE: (503, "healthcheck"),
}
_TEXT = {
    Kind.SYNTAX: (400, "Failed to parse the request body as JSON: {}"),
    Kind.SCHEMA: (422, "Failed to deserialize the JSON body into the target type: {}"),
    Kind.CONTENT_TYPE: (415, "{}"),
    Kind.BODY_TOO_LARGE: (413, "Failed to buffer the request body: length limit exceeded"),
    Kind.UNAUTHORIZED: (401, ""),
    Kind.NOT_FOUND: (404, ""),
    Kind.METHOD: (405, ""),
}


def error_body(problem: Problem) -> dict[str, str]:
    match problem.kind:
        case Kind.PROMPT_TOO_LONG:
            text = (
                f"Input validation error: `inputs` must have less than {problem.max_tokens - 1} tokens. "
                f"Given: {problem.prompt_tokens}"
            )
        case Kind.INVALID:
            text = f"Input validation error: {problem.message}"
        case Kind.OVERLOADED:
            text = "Model is overloaded"
        case Kind.UNAVAILABLE:
            text = problem.message
        case _:
            text = f"Request failed during generation: {problem.message}"
    return {"error": text, "error_type": _JSON[problem.kind][1]}


def error_response(problem: Problem) -> Response:
    if problem.kind in _TEXT:
        status, text = _TEXT[problem.kind]
        return PlainTextResponse(text.format(problem.message), status, problem.headers)
    body = msgspec.json.encode(error_body(problem))
    return Response(body, _JSON[problem.kind][0], problem.headers, media_type="application/json")


def error_event(problem: Problem) -> bytes:
    return sse.event(msgspec.json.encode(error_body(problem)))


DIALECT = Dialect(error_response, error_event)
