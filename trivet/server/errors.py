"""What can go wrong with a request, before a dialect gives it its status and its shape."""

from __future__ import annotations

import logging
import math
from enum import StrEnum

from trivet.errors import DeadlineError, EngineError, OverloadedError, RequestError

logger = logging.getLogger(__name__)


class Kind(StrEnum):
    """Each dialect has a table from these to its own status codes and type names."""

    SYNTAX = "syntax"
    """The body is not JSON."""
    SCHEMA = "schema"
    """A field is missing or of the wrong type."""
    CONTENT_TYPE = "content_type"
    BODY_TOO_LARGE = "body_too_large"
    UNAUTHORIZED = "unauthorized"
    INVALID = "invalid"
    """A value is out of range, or asks for what is not supported."""
    PROMPT_TOO_LONG = "prompt_too_long"
    NOT_FOUND = "not_found"
    METHOD = "method"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    """The answer took longer than it may."""
    ENGINE = "engine"
    """The engine failed at this request."""
    INTERNAL = "internal"


class Problem(Exception):
    """A request that cannot be served.

    parameter: the offending field as the client spelled it. retry_after: seconds. prompt_tokens and max_tokens come
    with PROMPT_TOO_LONG: the length of the prompt and the length it must stay under. failure: what metrics call it.
    """

    failure = "validation"

    def __init__(
        self,
        kind: Kind,
        message: str,
        parameter: str | None = None,
        *,
        retry_after: float | None = None,
        prompt_tokens: int = 0,
        max_tokens: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.parameter = parameter
        self.retry_after = retry_after
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the error response, the same in every dialect."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


SHUTTING_DOWN = Problem(Kind.UNAVAILABLE, "the server is shutting down", retry_after=5)
"""What requests are told that come when the server is about to end, and those it cannot wait for any longer."""


class ClientGone(Exception):
    """The client closed its connection before it had its answer; nobody is left to tell."""


def problem_of(error: Exception) -> Problem:
    """Classify whatever a route raised. What was not foreseen is logged with its traceback and told as little of."""
    match error:
        case Problem():
            return error
        case RequestError():
            return Problem(Kind.INVALID, str(error), error.parameter)
        case OverloadedError():
            return Problem(Kind.OVERLOADED, str(error), retry_after=error.retry_after)
        case DeadlineError():
            return Problem(Kind.TIMEOUT, str(error))
        case EngineError():
            return Problem(Kind.ENGINE, str(error))
    logger.error("a request failed on an unforeseen error", exc_info=error)
    return Problem(Kind.INTERNAL, "internal server error")
