"""The exceptions a caller may catch; each message says what was wrong, with the value, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrivetError(Exception):
    """Root of all errors that Trivet raises on purpose; a command prints its text as one line."""


class ModelError(TrivetError, ValueError):
    """A model file or folder is damaged, incomplete or of an architecture or format that is not supported."""


class RequestError(TrivetError, ValueError):
    """A request asks for something invalid.

    `parameter` names the offending field in the neutral (vLLM) spelling; dialects translate it.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class OverloadedError(TrivetError):
    """The queue is full; the caller may try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(TrivetError):
    """The request took longer than its timeout."""


class EngineError(TrivetError, RuntimeError):
    """The engine failed at this request, or is gone."""


class DeviceLostError(EngineError):
    """The device computes nothing more for this process, whatever it is given; for another it may."""


def unknown_keyword(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """The error for a keyword that `owner` does not have: it names the nearest of those that it has."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return TypeError(f"{owner} has no argument {name!r}{hint}")
