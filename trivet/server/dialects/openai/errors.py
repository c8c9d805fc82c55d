"""The shape of errors, vLLM's."""

from __future__ import annotations

import msgspec
from starlette.responses import JSONResponse, Response

from trivet.server import sse
from trivet.server.dialects.openai.answers import ErrorBody
from trivet.server.endpoint import Dialect
from trivet.server.errors import Kind, Problem

_STATUS = {
    Kind.SYNTAX: (400, "Bad Request"),
    Kind.SCHEMA: (400, "Bad Request"),
    Kind.CONTENT_TYPE: (400, "Bad Request"),
    Kind.BODY_TOO_LARGE: (413, "Content Too Large"),
    Kind.UNAUTHORIZED: (401, "Unauthorized"),
    Kind.INVALID: (400, "BadRequestError"),
    Kind.PROMPT_TOO_LONG: (400, "BadRequestError"),
    Kind.NOT_FOUND: (404, "NotFoundError"),
    Kind.METHOD: (405, "Method Not Allowed"),
    Kind.OVERLOADED: (429, "RateLimitError"),
    Kind.UNAVAILABLE: (503, "ServiceUnavailableError"),
    Kind.TIMEOUT: (504, "GatewayTimeoutError"),
    Kind.ENGINE: (500, "InternalServerError"),
    Kind.INTERNAL: (500, "InternalServerError"),
}


def error_body(problem: Problem) -> ErrorBody:
    status, name = _STATUS[problem.kind]
    message, parameter = problem.message, problem.parameter
    if problem.kind is Kind.CONTENT_TYPE:
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    elif problem.kind is Kind.SCHEMA:
        message = f"1 validation error:\n  {message}"
    elif problem.kind is Kind.PROMPT_TOO_LONG:
        parameter = "input_tokens"
        too_long = problem.prompt_tokens > problem.max_tokens
        message = (
            f"This model's maximum context length is {problem.max_tokens} tokens. However, your prompt contains "
            f"{problem.prompt_tokens} input tokens, which "
            f"{'exceeds this limit even without any' if too_long else 'leaves no room for'} output tokens. "
            "Please reduce the length of the input prompt."
        )
    return ErrorBody(message, name, parameter, status)


def error_response(problem: Problem) -> Response:
    if problem.kind is Kind.UNAUTHORIZED:
        return JSONResponse({"error": "Unauthorized"}, status_code=401)
    body = error_body(problem)
    return Response(msgspec.json.encode({"error": body}), body.code, problem.headers, media_type="application/json")


def error_event(problem: Problem) -> bytes:
    return sse.event(msgspec.json.encode({"error": error_body(problem)})) + sse.DONE


DIALECT = Dialect(error_response, error_event)
