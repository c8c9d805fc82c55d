"""Request bodies: bounded, JSON, of a declared shape."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from trivet.server.errors import ClientGone, Kind, Problem

T = TypeVar("T")
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`$")


async def read_json(request: Request, limit: int, shape: type[T], *, strict: bool = True) -> T:
    """A body of at most `limit` bytes that is declared as JSON, parsed as `shape` by `decode`."""
    require_json(request)
    return decode(await read_body(request, limit), shape, strict=strict)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, the same at every call. Raises Problem when it is longer than `limit` bytes."""
    if not hasattr(request.state, "body"):
        request.state.body = await _receive(request, limit)
    body = request.state.body
    if isinstance(body, Exception):
        raise body
    return body


async def _receive(request: Request, limit: int) -> bytes | Problem | ClientGone:
    """A body that is too long is still read (not kept) up to twice the limit: a client that is cut off while it
    sends never sees why.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size > 2 * limit:
                break
    except ClientDisconnect:
        return ClientGone()
    if size > limit:
        return Problem(Kind.BODY_TOO_LARGE, f"the request body is larger than the limit of {limit} bytes")
    return b"".join(chunks)


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON."""
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise Problem(
            Kind.CONTENT_TYPE, f"Expected request with `Content-Type: application/json`, got {given or 'none'!r}"
        )


def decode(body: bytes, shape: type[T], *, strict: bool = True) -> T:
    """Parse `body` as `shape`; where not `strict`, numbers and booleans may be written as text, and 5.0 is an integer.

    Raises Problem: SYNTAX for what is not JSON, SCHEMA naming the field otherwise."""
    try:
        return msgspec.json.decode(body, type=shape, strict=strict)
    except msgspec.ValidationError as error:
        where = _PATH.search(str(error))
        parameter = where.group(1) if where else None
        raise Problem(Kind.SCHEMA, str(error), parameter or None) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Problem(Kind.SYNTAX, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise Problem(Kind.SYNTAX, "the body is not valid JSON: it is nested too deeply") from None


def body_keys(body: bytes) -> frozenset[str]:
    """The keys of a JSON object; none for anything else."""
    try:
        return frozenset(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return frozenset()
