"""The shape of errors, Anthropic's."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from trivet.logs import request_id
from trivet.server import sse
from trivet.server.dialects.anthropic.schemas import ErrorBody, ErrorDetails
from trivet.server.endpoint import Dialect
from trivet.server.errors import Kind, Problem

_STATUS = {
    Kind.SYNTAX: (400, "invalid_request_error"),
    Kind.SCHEMA: (400, "invalid_request_error"),
    Kind.CONTENT_TYPE: (400, "invalid_request_error"),
    Kind.BODY_TOO_LARGE: (413, "request_too_large"),
    Kind.UNAUTHORIZED: (401, "authentication_error"),
    Kind.INVALID: (400, "invalid_request_error"),
    Kind.PROMPT_TOO_LONG: (400, "invalid_request_error"),
    Kind.NOT_FOUND: (404, "not_found_error"),
    Kind.METHOD: (405, "invalid_request_error"),
    Kind.OVERLOADED: (429, "rate_limit_error"),
    Kind.UNAVAILABLE: (503, "overloaded_error"),
    Kind.TIMEOUT: (504, "timeout_error"),
    Kind.ENGINE: (500, "api_error"),
    Kind.INTERNAL: (500, "api_error"),
}


def error_body(problem: Problem) -> ErrorBody:
    message = problem.message
    if problem.kind is Kind.PROMPT_TOO_LONG:
        message = f"prompt is too long: {problem.prompt_tokens} tokens > {problem.max_tokens - 1} maximum"
    return ErrorBody(ErrorDetails(_STATUS[problem.kind][1], message), request_id.get() or None)


def error_response(problem: Problem) -> Response:
    body = msgspec.json.encode(error_body(problem))
    return Response(body, _STATUS[problem.kind][0], problem.headers, media_type="application/json")


def error_event(problem: Problem) -> bytes:
    return sse.named_event(error_body(problem))


DIALECT = Dialect(error_response, error_event)
