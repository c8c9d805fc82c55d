"""The limits that llama.cpp puts to a text while it grows: indentation and time."""

from __future__ import annotations

import time


class Cutoff:
    """Ends a text at the first line, after the first one, that is indented by fewer than `n_indent` blanks; or, once it
    has a line break, `t_max_predict_ms` after its first token. 0 or less turns a limit off.
    """

    def __init__(self, n_indent: int, t_max_predict_ms: int) -> None:
        self._n_indent = n_indent
        self._seconds = t_max_predict_ms / 1000
        self._started: float | None = None
        self._indent: int | None = None
        """Blanks that the line has so far; None within a line."""
        self._lines = 0

    def push(self, text: str) -> tuple[str, bool]:
        """What to keep of the text that has come, and whether that is the end."""
        if self._started is None:
            self._started = time.monotonic()
        kept = self._indented(text) if self._n_indent > 0 else len(text)
        self._lines += text.count("\n")
        late = self._seconds > 0 and self._lines > 0 and time.monotonic() - self._started > self._seconds
        return text[:kept], late or kept < len(text)

    def _indented(self, text: str) -> int:
        """How many characters may stay."""
        for position, char in enumerate(text):
            if self._indent is not None:
                if char in " \t":
                    self._indent += 1
                    continue
                if self._indent < self._n_indent:
                    return position
                self._indent = None
            if char == "\n":
                self._indent = 0
        return len(text)
