"""How much of a prompt a step reads while other sequences wait for their next token."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

LEAST_TOKENS = 4
"""Of prompts in a step that reads any: each piece of a long prompt reads the keys and values of all before it, so that
still smaller ones would do hardly anything else."""

LONGEST_WAIT = 8
"""Steps without prompts at most, however long the piece before them took: prompts must get on."""

GROWTH = 2
"""A step reads at most so many times the tokens of the one before: what few tokens cost says little about many."""

SHARE = 0.9
"""Of the time of decoding, for a prompt: measured times lag behind contexts that grow."""

QUEUE = 2
"""Times that of the first, for each prompt that waits beside it: they wait for one another too."""

WEIGHT = 0.5
"""Of the latest step in the averages."""

REFRESH = 32
"""After so many steps with prompts one goes without, to see what decoding takes by now."""


class Pace:
    """Learns what decoding and reading take, and from that sizes the part that prompts have of a step.

    One prompt at most doubles the mean time between a stream's tokens; each that waits beside it adds QUEUE times as
    much. A step whose prompts took longer than that leaves a debt, which steps without prompts pay off. Only the sizes
    of steps follow from what is measured here; no result depends on that.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begun: deque[tuple[float, int, int]] = deque()
        """When the steps that have not ended began, what they decode and what they read."""
        self._ended = -math.inf
        """When the latest step did; the one that was begun in the meantime had to wait for that."""
        self._prompt_tokens = 1
        """Of the step that began last."""
        self._decoders = 0
        self._decode_seconds = 0.0
        """Of a step in which nothing but `_decoders` sequences decode."""
        self._token_seconds: float | None = None
        """Of a prompt's token beside that."""
        self._earning = 0.0
        """Seconds that each step may take longer for the prompts that wait."""
        self._debt = 0.0
        """Seconds that steps with prompts took beyond that."""
        self._last = LEAST_TOKENS
        self._mixed = 0
        """Steps since one without prompts."""

    def allowance(self, decodes: int, prompts: int) -> int:
        """Tokens of `prompts` waiting prompts that a step with `decodes` (> 0) decoding sequences may read."""
        self._earning = SHARE * self._decode_seconds * (1 + QUEUE * (prompts - 1))
        if self._outdated(decodes) or self._debt > self._earning:
            return 0
        if self._token_seconds is None:
            return LEAST_TOKENS
        most = GROWTH * self._last
        seconds = self._earning - self._debt
        if seconds < most * self._token_seconds:
            most = math.ceil(seconds / self._token_seconds)
        return max(LEAST_TOKENS, most)

    def start(self, decodes: int, prompt_tokens: int) -> None:
        """A step begins."""
        self._prompt_tokens = prompt_tokens
        self._begun.append((self._clock(), decodes, prompt_tokens))

    def stop(self) -> None:
        """The earliest step has ended."""
        began, decodes, prompt_tokens = self._begun.popleft()
        now = self._clock()
        seconds = now - max(began, self._ended)
        self._ended = now
        beside = 0.0
        if not prompt_tokens:
            self._decode_seconds = _average(self._decode_seconds if decodes == self._decoders else None, seconds)
            self._decoders = decodes
            self._mixed = 0
        elif decodes:
            beside = max(0.0, seconds - self._decode_seconds)
            self._token_seconds = _average(self._token_seconds, beside / prompt_tokens)
            self._last = max(LEAST_TOKENS, prompt_tokens)
            self._mixed += 1
        self._debt = min(max(0.0, self._debt + beside - self._earning), LONGEST_WAIT * self._earning)

    def _outdated(self, decodes: int) -> bool:
        """Whether a step without prompts is due; there are no two of these in a row."""
        if not self._prompt_tokens:
            return False
        return self._mixed >= REFRESH or not 0.75 * self._decoders <= decodes <= 1.25 * self._decoders


def _average(known: float | None, latest: float) -> float:
    return latest if known is None else known + WEIGHT * (latest - known)
