"""Parameters in a URL's query."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request

from trivet.server.errors import Kind, Problem


def integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Raises Problem unless what is given is between `least` and `most`."""
    given = request.query_params.get(name)
    if given is None:
        return default
    shape: Any = Annotated[int, msgspec.Meta(ge=least, le=most)]
    try:
        return int(msgspec.convert(given, shape, strict=False))
    except msgspec.ValidationError:
        raise Problem(Kind.INVALID, f"{name} must be between {least} and {most}, got {given!r}", name) from None


def page_limit(request: Request, default: int, most: int) -> int:
    """`limit`: how many entries of a list to show at most. Raises Problem unless it is between 1 and `most`."""
    return integer(request, "limit", default, 1, most)
