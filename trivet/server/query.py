"""Parameters in a URL's query."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request

from trivet.server.errors import Kind, Problem


def page_limit(request: Request, default: int, most: int) -> int:
    """`limit`: how many entries of a list to show at most. Raises Problem unless it is between 1 and `most`."""
    given = request.query_params.get("limit", str(default))
    shape: Any = Annotated[int, msgspec.Meta(ge=1, le=most)]
    try:
        return int(msgspec.convert(given, shape, strict=False))
    except msgspec.ValidationError:
        raise Problem(Kind.INVALID, f"limit must be between 1 and {most}, got {given!r}", "limit") from None
