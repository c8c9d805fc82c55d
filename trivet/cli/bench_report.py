"""What `trivet bench-serve` shows: a bar while it runs, then a table."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trivet.bench.benchmark import Result
from trivet.bench.load import Record
from trivet.bench.metrics import METRICS, PERCENTILES
from trivet.cli import terminal

LABELS = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2el": "E2E"}
DRAW_EVERY = 0.5
"""Seconds."""

BUSY = 0.8
"""Of a core: from here on, a client's own work may delay what it measures."""


@contextlib.contextmanager
def progress(requests: int | None, duration: float | None) -> Iterator[Callable[[Record], None]]:
    """A bar on a terminal; gives what is called with every finished request.

    Drawn seldom, from this thread: drawing holds up the streams that are being timed.
    """
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    shown = terminal.errors.is_terminal
    bar = Progress(*columns, console=terminal.errors, transient=True, auto_refresh=False, disable=not shown)
    finished = failed = tokens = 0
    begin = time.monotonic()

    def done(record: Record) -> None:
        nonlocal finished, failed, tokens
        finished += 1
        failed += record.failure is not None
        tokens += record.output_tokens

    async def draw() -> None:
        task = bar.add_task("asking the server …", total=requests or duration)
        while True:
            passed = time.monotonic() - begin
            if finished:
                of = f" of {requests}" if requests else ""
                lost = f", {failed} failed" if failed else ""
                text = f"{finished}{of} requests{lost}, {tokens / passed:,.0f} tokens/s"
                bar.update(task, description=text, completed=finished if requests else passed)
            bar.refresh()
            await asyncio.sleep(DRAW_EVERY)

    with bar:
        drawing = asyncio.create_task(draw()) if shown else None
        try:
            yield done
        finally:
            if drawing:
                drawing.cancel()


def headline(settings: dict[str, Any]) -> str:
    name = f" {settings['model_id']}" if settings["model_id"] else ""
    paces = [f"concurrency {settings['max_concurrency']}"] if settings["max_concurrency"] else []
    match settings["request_rate"]:
        case "trace":
            paces.append("at the trace's times")
        case "inf":
            paces = paces or ["all at once"]
        case requests_per_second:
            paces.append(f"{requests_per_second:g} requests/s")
    return f"{settings['backend']}{name}: {settings['num_prompts']} × {settings['workload']}, {', '.join(paces)}"


def show(settings: dict[str, Any], summary: dict[str, Any], failed: dict[str, tuple[int, str]], result: Result) -> None:
    """Print the numbers, and what casts doubt on them."""
    names = ("mean", *(f"p{p}" for p in PERCENTILES), "max")
    rows = []
    for metric in METRICS:
        values = [summary[f"{name}_{metric}_ms"] for name in names]
        rows.append([LABELS[metric], *("-" if value is None else f"{value:,.2f}" for value in values)])
    terminal.table(["milliseconds", *names], rows, title=headline(settings), title_justify="left")
    lines = [
        (
            "requests",
            f"{summary['completed']:,} succeeded, {summary['failed']:,} failed, in {summary['duration']:,.2f} s",
        ),
        ("", f"{summary['request_throughput']:,.2f} a second"),
        ("prompt tokens", f"{summary['total_input_tokens']:,}"),
        (
            "output tokens",
            f"{summary['total_output_tokens']:,}: {summary['output_throughput']:,.1f} a second, "
            f"{summary['total_token_throughput']:,.1f} with the prompts'",
        ),
    ]
    if settings["slo_ms"]:
        limits = ", ".join(f"{name} ≤ {limit:g} ms" for name, limit in settings["slo_ms"].items())
        share = summary["request_goodput"] / summary["request_throughput"] if summary["completed"] else 0.0
        lines.append(("goodput", f"{summary['request_goodput']:,.2f} requests a second ({share:.0%}) within {limits}"))
    lines += [(kind, f"{count:,} failed, the first: {first}") for kind, (count, first) in failed.items()]
    if not result.lengths_known:
        lines.append(("note", "the server does not count prompt tokens: prompts have a word for each token asked for"))
    busy = result.busy / result.seconds
    if busy > BUSY:
        lines.append(("note", f"this client used {busy:.0%} of a core: it may be what limits, not the server"))
    terminal.pairs(lines)
