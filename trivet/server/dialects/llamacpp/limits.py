"""The two kinds of range that llama.cpp's numbers have: past a hard one is an error, past a soft one is its end."""

from __future__ import annotations

from msgspec import Meta, Struct

from trivet.server.errors import Kind, Problem
from trivet.server.fields import notes

INT32_MAX = 2**31 - 1


def hard(low: float, high: float) -> Meta:
    """Refuse what lies outside."""
    return Meta(extra={"hard": (low, high), "range": f"supported, {_words(low, high)}"})


def soft(low: float, high: float) -> Meta:
    """Take the nearer end for what lies outside."""
    return Meta(extra={"soft": (low, high), "range": f"supported; clamped: {_words(low, high)}"})


def _words(low: float, high: float) -> str:
    """A range for people, who do not care for the ends of integers and floats."""
    if high >= INT32_MAX:
        return f"at least {low}"
    return f"{low} to {high}" if low > -INT32_MAX else f"at most {high}"


def apply_limits(body: Struct) -> None:
    """Clamp what has a soft range. Raises Problem for what is outside a hard one."""
    for name, note in notes(type(body)).items():
        value = getattr(body, name)
        if value is None:
            continue
        if "soft" in note:
            low, high = note["soft"]
            setattr(body, name, min(max(value, low), high))
        if "hard" in note:
            check_range(name, value, *note["hard"])


def check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        message = f"Field '{name}': Value must be between {low} <= value <= {high}, but got {value}"
        raise Problem(Kind.INVALID, message, name)
