"""What steps held and how long they took, counted by size: cheap to add to at each, and small to send with each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

DURATIONS = tuple(0.00015 * 1.5**k for k in range(35))
"""Seconds; TGI's buckets."""
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MOST_ADMITTED = 1024
METHODS = ("prefill", "decode")
"""A step that computes parts of prompts is one of the first kind, whatever else it does."""
PHASES = ("step", "schedule", "run", "commit")


class StepHistograms:
    """Histograms by name, all in one array of float64.

    tokens: length of the prompts that were completed, and tokens generated. admitted: sequences that began, of steps
    in which any did; join: the time to schedule those that joined others. sequences: of a step; failed prefill,
    failed decode: steps that failed; these have no buckets. PHASE METHOD ("run decode"): seconds.
    """

    def __init__(self, max_num_seqs: int, data: bytes = b"") -> None:
        self.bounds: dict[str, Sequence[float]] = {
            "tokens": TOKENS,
            "admitted": range(1, min(max_num_seqs, MOST_ADMITTED) + 1),
            "join": DURATIONS,
            "sequences": (),
            **{f"failed {method}": () for method in METHODS},
            **{f"{phase} {method}": DURATIONS for phase in PHASES for method in METHODS},
        }
        self._places: dict[str, tuple[Sequence[float], int, int]] = {}
        """Bounds, where their counts are (one more than bounds, for what is above all), and where the sum is."""
        size = 0
        for name, bounds in self.bounds.items():
            self._places[name] = bounds, size, size + len(bounds) + 1
            size += len(bounds) + 2
        self._values = array("d", data or bytes(8 * size))
        self._ran = self._committed = 0.0
        """When the latest step was."""

    def observe(self, name: str, value: float) -> None:
        bounds, start, end = self._places[name]
        self._values[start + bisect_left(bounds, value)] += 1
        self._values[end] += value

    def add(
        self, prefill: bool, sequences: int, admitted: int, tokens: int, failed: bool, times: Sequence[float]
    ) -> None:
        """Count a step. times: when it began, was scheduled, was run, was committed; seconds of one clock.

        A step that began while another was in flight is counted as running from where that had run, and as a whole
        from where that was committed.
        """
        method = METHODS[not prefill]
        began, scheduled, ran, committed = times
        self.observe("tokens", tokens)
        self.observe("sequences", sequences)
        if admitted:
            self.observe("admitted", admitted)
            if admitted < sequences:
                self.observe("join", scheduled - began)
        if failed:
            self.observe(f"failed {method}", 1)
        self.observe(f"step {method}", committed - max(began, self._committed))
        self.observe(f"schedule {method}", scheduled - began)
        self.observe(f"run {method}", ran - max(scheduled, self._ran))
        self.observe(f"commit {method}", committed - ran)
        self._ran, self._committed = ran, committed

    def counts(self, name: str) -> list[int]:
        """How many values were at most each bound; the last is all of them."""
        _, start, end = self._places[name]
        return [int(count) for count in np.cumsum(self._values[start:end])]

    def total(self, name: str) -> int:
        """How many values there were."""
        return self.counts(name)[-1]

    def sum(self, name: str) -> float:
        return self._values[self._places[name][2]]

    def __bytes__(self) -> bytes:
        return self._values.tobytes()


def joined(first: bytes, second: bytes) -> bytes:
    """The histograms of two engines of one configuration, as bytes, in one."""
    if not first or not second:
        return first or second
    return (np.frombuffer(first) + np.frombuffer(second)).tobytes()
