"""Values of options without typer's own machinery.

typer converts every value with pydantic, whose import takes longer than all of ours that load a model. What is plainly
right needs none of it; anything else is left to typer, which knows what to say.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)
_UNKNOWN = object()


class PlainValues:
    """Put before a typer command's class: its parameters take plain values as they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if not isinstance(parameter.process_value, partial):
                parameter.process_value = partial(_process, parameter, parameter.process_value)
        return parameters


def _process(parameter: Any, otherwise: Any, ctx: Any, value: Any) -> Any:
    found = _plain(parameter, value)
    if found is _UNKNOWN:
        return otherwise(ctx, value)
    return found if parameter.callback is None else parameter.callback(ctx, parameter, found)


def _plain(parameter: Any, value: Any) -> Any:
    """The value, or _UNKNOWN."""
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:
        return _UNKNOWN
    kind, info = descriptor.annotation, descriptor.parameter_info
    if value is None:
        if parameter.required:
            return _UNKNOWN
        return () if parameter.multiple or parameter.nargs == -1 else None
    if info.parser is not None:
        try:
            return info.parser(value)
        except Exception:
            return _UNKNOWN
    if kind in (str, bool):
        return value if type(value) is kind else _UNKNOWN
    if kind == list[str]:
        return list(value) if all(type(each) is str for each in value) else _UNKNOWN
    if kind is int or kind is float:
        if type(value) is str and (_INTEGER if kind is int else _DECIMAL).fullmatch(value):
            value = kind(value)
        fits = type(value) is kind and (info.min is None or value >= info.min)
        return value if fits and (info.max is None or value <= info.max) else _UNKNOWN
    return _UNKNOWN
