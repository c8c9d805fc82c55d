"""What is written for people: in colour, side by side, in tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

console = Console(highlight=False, markup=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values side by side."""
    grid = Table.grid("", "", padding=(0, 2))
    grid.columns[0].style = "bold"
    grid.columns[1].overflow = "fold"
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], **options: Any) -> None:
    """Print rows of text; all columns but the first are aligned to the right."""
    grid = Table(*columns, box=box.SIMPLE_HEAD, **options)
    for column in grid.columns[1:]:
        column.justify = "right"
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
