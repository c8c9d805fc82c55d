"""How large what a chat template asks for can become: found before it is made."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from itertools import chain
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import SandboxedFormatter
from jinja2.utils import Namespace

MAX_LENGTH = 1 << 25
"""Characters (or items) of anything that a template makes."""

MAX_BITS = 1 << 16
"""Of a whole number: Python itself writes none of more than 4300 digits."""


class BudgetError(TemplateError):
    """A template uses more than it may."""


def check_length(size: float) -> None:
    if size > MAX_LENGTH:
        raise BudgetError(f"it makes something of more than {MAX_LENGTH} characters")


def length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def text_length(value: Any, known: dict[int, int] | None = None) -> int:
    """About how long a value is as a text, or that text escaped; it has no more items, at any depth.

    known: what has been found for the lists and objects within, which may be there many times.
    """
    if isinstance(value, str | bytes):
        return len(value) + 2
    if isinstance(value, int):
        return value.bit_length() + 2
    inner = _inner(value)
    if inner is None:
        return 64
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = 2 + sum(text_length(part, known) for part in inner)
    return known[id(value)]


def _inner(value: Any) -> Iterable[Any] | None:
    """What is written as part of a value."""
    if isinstance(value, Namespace):
        return [value._Namespace__attrs]
    if isinstance(value, Mapping):
        return chain(value, value.values())
    return value if isinstance(value, list | tuple | KeysView | ValuesView | ItemsView) else None


def bound_of_operator(operator: str, left: Any, right: Any) -> float:
    for number in (left, right):
        if isinstance(number, int) and number.bit_length() > MAX_BITS:
            raise BudgetError(f"it reckons with a number of more than {MAX_BITS} bits")
    match operator:
        case "**":
            return abs(right) * (left.bit_length() if isinstance(left, int) else 64)
        case "*":
            return max(length(left) * _count(right), length(right) * _count(left))
        case "+":
            return length(left) + length(right)
        case "%" if isinstance(left, str):
            return _printed(left, right)
    return 0


def json_text(value: Any, indent: int | str | None, separators: tuple[str, str] | None, **options: Any) -> str:
    check_length(text_length(value) * (1 + sum(map(len, separators or ()))))
    check_length(sys.getrecursionlimit() * (_count(indent) or length(indent)))
    size, parts = 0, []
    for part in json.JSONEncoder(indent=indent, separators=separators, **options).iterencode(value):
        size += len(part)
        check_length(size)
        parts.append(part)
    return "".join(parts)


class BoundedFormatter(SandboxedFormatter):
    """For one `str.format`."""

    _size = 0

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        found = super().get_field(field_name, args, kwargs)
        self._add(text_length(found[0]))
        return found

    def format_field(self, value: Any, format_spec: str) -> str:
        self._add(_widths(format_spec))
        return super().format_field(value, format_spec)

    def _add(self, size: int) -> None:
        self._size += size
        check_length(self._size)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _widths(layout: str) -> int:
    return sum(map(int, re.findall(r"\d+", layout)))


def _text(value: Any) -> str:
    check_length(text_length(value))
    return str(value)


def _printed(layout: Any, values: Any) -> int:
    """As C's printf does."""
    layout = _text(layout)
    starred = sum(abs(_count(value)) for value in values) if "*" in layout and isinstance(values, tuple) else 0
    return len(layout) + _widths(layout) + layout.count("%") * (starred + text_length(values))


def _padded(text: Any, width: int = 80, *_: Any) -> int:
    return max(text_length(text), width)


def _expanded(text: str, tabsize: int = 8) -> int:
    return len(text) * max(tabsize, 1)


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> int:
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    return len(text) + times * len(new)


def _joined(parts: Any, separator: Any = "", *_: Any, **__: Any) -> int:
    return text_length(parts) + len(parts) * text_length(separator)


def _summed(parts: Any, attribute: Any = None, start: Any = 0) -> int:
    """Of lists, each sum is a new one."""
    return text_length((parts, start)) * (1 if isinstance(start, int | float) else 1 + len(parts))


def _indented(text: str, width: int | str = 4, *_: Any, **__: Any) -> int:
    return len(text) + (len(text.splitlines()) + 1) * (_count(width) or length(width))


def _rewritten(value: Any, *args: Any, **kwargs: Any) -> int:
    """A text of which each character may become all of the arguments."""
    return text_length(value) * (1 + sum(map(length, (*args, *kwargs.values()))))


BOUNDS_OF_METHODS: Mapping[str, Callable[..., float]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes"), _padded),
    "expandtabs": _expanded,
    "join": lambda separator, parts: _joined(parts, separator),
    "replace": _replaced,
    "translate": lambda text, table: len(text) * text_length(table),
}
"""Of texts, and of numbers."""

_REWRITING = (
    *("capitalize", "e", "escape", "forceescape", "lower", "pprint", "safe", "string", "striptags", "title", "trim"),
    *("truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"),
)
BOUNDS_OF_FILTERS: Mapping[str, Callable[..., float]] = {
    **dict.fromkeys(_REWRITING, _rewritten),
    "batch": lambda _, linecount, *__: linecount,
    "center": _padded,
    "format": lambda layout, *args, **kwargs: _printed(layout, kwargs or args),
    "indent": _indented,
    "join": _joined,
    "replace": lambda text, old, new, count=None: _replaced(_text(text), _text(old), _text(new), count),
    "slice": lambda _, slices, *__: slices,
    "sum": _summed,
}
