"""A dataclass as options of a command line, for scripts that let their users set up the engine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import types
import typing
from typing import Any


def add_fields(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add an option for each field, with dashes or underscores. A value of any type is JSON, or else text."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        names = {f"--{field.name.replace('_', '-')}", f"--{field.name}"}
        parser.add_argument(*sorted(names), dest=field.name, default=default, **_reading(hints[field.name]))


def _reading(hint: Any) -> dict[str, Any]:
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    kinds.discard(types.NoneType)
    if kinds == {bool}:
        return {"action": argparse.BooleanOptionalAction}
    if list[str] in kinds:
        return {"nargs": "+"}
    if kinds in ({int}, {float}):
        return {"type": kinds.pop()}
    return {"type": str if str in kinds else _json}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
