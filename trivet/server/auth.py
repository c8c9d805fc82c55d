"""API keys."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.requests import Request

from trivet.server.errors import Kind, Problem


def check_key(request: Request, keys: Sequence[str]) -> str:
    """The one of `keys` that the request carries, "" where there are none to carry. Raises Problem if it has none.

    It may be in `Authorization: Bearer KEY` or in `X-Api-Key: KEY`. All keys are compared, each in constant time.
    """
    if not keys:
        return ""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = request.headers.get("x-api-key", "")
    matches = [hmac.compare_digest(given.strip().encode("latin-1"), key.encode()) for key in keys]
    if not any(matches):
        raise Problem(Kind.UNAUTHORIZED, "Invalid API Key")
    return given.strip()
