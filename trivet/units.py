"""Sizes, for people."""

from __future__ import annotations

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def amount(size: float) -> str:
    """Bytes, in the largest unit of which there is one at least."""
    unit = 0
    while size >= 1024 and unit + 1 < len(UNITS):
        size /= 1024
        unit += 1
    return f"{size:,.{2 if unit else 0}f} {UNITS[unit]}"
