"""What a dialect says of a request's field beside its type: refused, in part supported, or without meaning here.

    class Body(Struct):
        tools: Annotated[Any, refused([], why="tools are not supported yet")] = None
        user: Annotated[str | None, meaningless("requests are not told apart by user")] = None

The documentation is made from the same words.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import msgspec
from msgspec import UNSET, Meta, Struct

from trivet.server.errors import Kind, Problem


def refused(*neutral: Any, why: str = "") -> Meta:
    """Only null and the `neutral` values, which ask for nothing, are accepted."""
    return Meta(extra={"refused": neutral, "why": why})


def meaningless(why: str) -> Meta:
    """Accepted, and changes nothing here: `why`."""
    return Meta(extra={"meaningless": why})


def partly(how: str) -> Meta:
    """Supported, but only so: `how`. The handler refuses the rest."""
    return Meta(extra={"partly": how})


@functools.cache
def notes(shape: type[Struct]) -> dict[str, dict[str, Any]]:
    """What the fields of a struct are annotated with, by the name they have in Python."""
    info = msgspec.inspect.type_info(shape)
    assert isinstance(info, msgspec.inspect.StructType)
    return {
        field.name: field.type.extra
        for field in info.fields
        if isinstance(field.type, msgspec.inspect.Metadata) and field.type.extra
    }


def describe(note: dict[str, Any]) -> str:
    """A field's note as a sentence."""
    if "meaningless" in note:
        return f"No meaning here: {note['meaningless']}."
    if "partly" in note:
        return f"Supported only so: {note['partly']}."
    if "range" in note:
        return note["range"]
    neutral = ", ".join(f"`{json.dumps(value)}`" for value in note["refused"])
    return f"Refused{f', except {neutral}' if neutral else ''}{': ' + note['why'] if note['why'] else ''}."


def refuse_unsupported(body: Struct, prefix: str = "") -> None:
    """Raise Problem for the first refused field that asks for something, in `body` or in the structs of its fields.

    prefix: what comes before the names of the fields in the message.
    """
    for name, note in notes(type(body)).items():
        if "refused" not in note:
            continue
        value = getattr(body, name)
        if value is None or value is UNSET or value in note["refused"]:
            continue
        reason = f": {note['why']}" if note["why"] else ""
        path = prefix + name
        raise Problem(Kind.INVALID, f"{path} is not supported by this server{reason}", path)
    for name in body.__struct_fields__:
        if isinstance(value := getattr(body, name), Struct):
            refuse_unsupported(value, f"{prefix}{name}.")
