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
    Kind.TIMEOUT: (504, "timeout"),
    Kind.ENGINE: (424, "generation"),
    Kind.INTERNAL: (424, "generation"),
    Kind.UNAVAILABLE: (503, "healthcheck"),
}
_TEXT = {
    Kind.SYNTAX: (400, "Failed to parse the request body as JSON: {}"),
    Kind.SCHEMA: (422, "Failed to deserialize the JSON body into the target type: {}"),
    Kind.CONTENT_TYPE: (415, "Expected request with `Content-Type: application/json`"),
    Kind.BODY_TOO_LARGE: (413, "Failed to buffer the request body: length limit exceeded"),
    Kind.UNAUTHORIZED: (401, ""),
    Kind.NOT_FOUND: (404, ""),
    Kind.METHOD: (405, ""),
}


class Refusal(Problem):
    """A request refused by other rules than those of validation: with an `error_type` of their own, and a message
    that stands as it is.
    """

    def __init__(self, error_type: str, message: str, parameter: str | None = None) -> None:
        super().__init__(Kind.INVALID, message, parameter)
        self.error_type = error_type


class TemplateError(Refusal):
    failure = "template"

    def __init__(self, message: str, parameter: str | None) -> None:
        super().__init__("template_error", f"Template error: {message}", parameter)


def error_body(problem: Problem) -> dict[str, str]:
    if isinstance(problem, Refusal):
        return {"error": problem.message, "error_type": problem.error_type}
    match problem.kind:
        case Kind.INVALID | Kind.PROMPT_TOO_LONG:
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
    """The last event of a stream of TGI's own API."""
    return sse.event(msgspec.json.encode(error_body(problem)))


def openai_error_event(problem: Problem) -> bytes:
    """How a stream of chat or completions ends in an error: its code is always the same."""
    error = {"message": error_body(problem)["error"], "http_status_code": 422}
    return sse.event(msgspec.json.encode({"error": error})) + sse.DONE


DIALECT = Dialect(error_response, error_event, late=True)
