"""Who sent the request that is being answered, and how long they will wait."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b

from starlette.requests import Request

from trivet.server.errors import Kind, Problem

TIMEOUT_HEADER = "X-Request-Timeout"


@dataclass(frozen=True, slots=True)
class Caller:
    """tenant: an opaque name for the holder of an API key. timeout: seconds that the answer may take."""

    tenant: str = ""
    timeout: float | None = None


NOBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def current_caller() -> Caller:
    return _caller.get()


def note_caller(request: Request, key: str) -> None:
    """Have `current_caller` tell of this request, which carries the API key `key` (or none, where none is needed).

    Raises Problem for a timeout that is none.
    """
    tenant = blake2b(key.encode(), digest_size=16).hexdigest() if key else ""
    _caller.set(Caller(tenant, _timeout(request.headers.get(TIMEOUT_HEADER))))


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise Problem(Kind.INVALID, f"{TIMEOUT_HEADER} must be a number of seconds above 0, got {text[:40]!r}")
    return seconds
