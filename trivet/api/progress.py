"""The progress bar of a long list of prompts."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PATIENCE = 1.0
"""Seconds before the bar is shown."""


class Progress:
    """Counts finished prompts and generated tokens on stderr, once it has taken a while."""

    def __init__(self, total: int, enabled: bool) -> None:
        self._enabled = enabled and total > 1
        self._tokens = 0
        self._start = time.monotonic()
        self._bar = Bar(
            TextColumn("prompts"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} tok/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, speed=0.0)
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self._shown:
            self._bar.stop()

    def advance(self, tokens: int) -> None:
        """One prompt is done, having made so many tokens."""
        self._tokens += tokens
        elapsed = time.monotonic() - self._start
        self._bar.update(self._task, advance=1, speed=self._tokens / max(elapsed, 1e-6))
        if self._enabled and not self._shown and elapsed > PATIENCE:
            self._bar.start()
            self._shown = True
