"""What the GPU's benchmark finds: lines of a table, and what becomes of them: text, JSON, a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.report import markdown

VERDICTS = {"ok": "#3b6fb6", "MISSED": "#c0392b", "": "#999999"}
"""And their colours."""


@dataclass(frozen=True)
class Row:
    """A line of the table. `reached` is the measured speed over the bound's, `target` the share asked for; a check
    reaches 1 or 0 of 1."""

    name: str
    measured: str
    bound: str = ""
    reached: float | None = None
    target: float | None = None

    @property
    def verdict(self) -> str:
        """ "ok", "MISSED", or "" where nothing is asked for."""
        if self.target is None:
            return ""
        return "ok" if self.reached is not None and self.reached >= self.target else "MISSED"  # NaN is missed


def check(name: str, error: float, allowed: float, unit: str = "off by {:.1e}") -> Row:
    """Whether an error is small enough; NaN is not."""
    return Row(name, unit.format(error), f"at most {allowed:g}", float(error <= allowed), 1.0)


def failure(name: str, error: Exception) -> Row:
    """What should have been measured, and could not be."""
    text = " ".join(str(error).split())
    return Row(name, f"{type(error).__name__}: {text[:120]}", "", None, 1.0)


def untargeted(row: Row) -> Row:
    """A speed for which none is asked; checks and failures as they are."""
    return row if row.reached is None or is_check(row) else replace(row, target=None)


def cells(row: Row) -> tuple[str, ...]:
    shares = ("" if value is None else f"{value:.2f}" for value in (row.reached, row.target))
    return row.name, row.measured, row.bound, *shares, row.verdict


def line(row: Row) -> str:
    name, measured, bound, reached, _, verdict = cells(row)
    return f"  {name}: {measured}" + (f" of {bound}" if bound else "") + (f"; {reached} {verdict}" if reached else "")


def show(console: Console, sections: dict[str, list[Row]]) -> None:
    """All in one table, and how many missed what they have to reach."""
    table = Table("", "measured", "bound", "reached", "target", "", box=None, pad_edge=False)
    for column in table.columns[3:5]:
        column.justify = "right"
    for title, rows in sections.items():
        table.add_row(f"[bold]{title}")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in cells(row)))
    console.print(table)
    rows = [row for part in sections.values() for row in part]
    missed = sum(row.verdict == "MISSED" for row in rows)
    console.print(f"{len(rows)} lines, {sum(row.target is not None for row in rows)} with a target, {missed} MISSED")


def write(path: Path, machine: dict[str, Any], sections: dict[str, list[Row]]) -> None:
    """JSON at `path`, which is whole at any time."""
    results = {title: [asdict(row) | {"verdict": row.verdict} for row in rows] for title, rows in sections.items()}
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    part.replace(path)


def publish(path: Path, machine: dict[str, Any], sections: dict[str, list[Row]]) -> None:
    """The results at `path` as Markdown, and where matplotlib is installed a plot of those that have a target."""
    head = ("", "measured", "bound", "reached", "target", "")
    text = f"# {machine['device']}\n\n{machine['date']}, commit {machine['commit']}, {machine['versions']}; "
    text += f"a random model of the shape {machine['shape']}.\n"
    for title, rows in sections.items():
        text += f"\n## {title}\n\n{markdown(head, (cells(row) for row in rows))}"
    path.with_suffix(".md").write_text(text)
    timed = [
        replace(row, name=f"{title}: {row.name}")
        for title, rows in sections.items()
        for row in rows
        if row.target is not None and row.reached is not None and not is_check(row)
    ]
    if timed:
        plot(path.with_suffix(".png"), str(machine["device"]), timed)


def is_check(row: Row) -> bool:
    return row.target == 1.0 and row.reached in (0.0, 1.0)


def plot(path: Path, title: str, rows: Iterable[Row]) -> None:
    """A bar for each line: the share of its bound that it reaches, with a mark at its target."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    rows = list(rows)[::-1]
    figure = Figure(figsize=(9, 0.8 + 0.22 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        assert row.reached is not None
        axis.barh(place, row.reached, color=VERDICTS[row.verdict])
        axis.annotate(
            row.measured, (row.reached, place), xytext=(3, 0), textcoords="offset points", va="center", size=6
        )
        if row.target is not None:
            axis.vlines(row.target, place - 0.4, place + 0.4, color="black")
    axis.set_yticks(range(len(rows)), [row.name for row in rows], size=7)
    axis.set(title=title, xlabel="measured speed over the bound's", ylim=(-0.6, len(rows) - 0.4))
    axis.margins(x=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
