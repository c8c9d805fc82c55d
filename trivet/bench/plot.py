"""A picture of a run: percentiles, and how latency and throughput went over time. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from trivet.bench.load import Record
from trivet.bench.metrics import samples
from trivet.errors import TrivetError

BLUE, ORANGE, GREY = "#3b6fb6", "#d9822b", "#999999"
BINS = 60


def require_matplotlib() -> None:
    """Raises TrivetError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise TrivetError("--plot needs matplotlib: pip install 'trivet[bench]'")


def plot(records: list[Record], title: str, path: str | Path) -> None:
    """Write a PNG (or what the name's ending says). `records` holds one success at least."""
    from matplotlib.figure import Figure

    good = [record for record in records if record.failure is None]
    begin = min(record.start for record in records)
    figure = Figure(figsize=(11, 10), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3, 2)
    found = samples(good)
    for row, (name, label) in enumerate([("ttft", "time to first token"), ("itl", "inter-token latency")]):
        percentile_curve(axes[row, 0], np.asarray(found[name]) * 1e3, label)

    starts = [record.start - begin for record in good]
    axes[0, 1].scatter(starts, [record.ttft * 1e3 for record in good], s=12, color=BLUE, alpha=0.6)
    failed = [record.start - begin for record in records if record.failure is not None]
    if failed:
        axes[0, 1].scatter(failed, np.zeros(len(failed)), s=30, color=ORANGE, marker="x", label="failed")
        axes[0, 1].legend()
    axes[0, 1].set(title="time to first token, by time of sending", ylabel="ms", ylim=(0, None))

    end = max(record.times[-1] for record in good) - begin
    edges = np.linspace(0, max(end, 1e-9), BINS + 1)
    gaps_over_time(axes[1, 1], good, begin, edges)
    tokens_over_time(axes[2, 0], good, begin, edges)
    running_over_time(axes[2, 1], records, begin)
    for axis in (*axes[:, 1], axes[2, 0]):
        axis.set_xlabel("seconds")
        axis.set_xlim(0, end)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def percentile_curve(axis: Any, ms: np.ndarray, label: str) -> None:
    """Percentiles along an axis that is as wide from 90 to 99 as from 0 to 90: the tail is what users complain of."""
    axis.set(title=f"{label}, percentiles", xlabel="percentile", ylabel="ms")
    ticks = (0, 50, 90, 99, 99.9)
    axis.set_xticks([tail(percentile) for percentile in ticks], [f"{percentile:g}" for percentile in ticks])
    if not ms.size:
        return
    places = np.linspace(0, min(tail(99.9), max(np.log10(ms.size), tail(90))), 301)
    axis.plot(places, np.percentile(ms, 100 - 100 / 10**places), color=BLUE)
    for percentile in (50, 99):
        value = np.percentile(ms, percentile)
        axis.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate(f"p{percentile} {value:,.1f} ms", (0.02, value), va="bottom", fontsize=9)
    axis.set_ylim(0, None)


def tail(percentile: float) -> float:
    return float(-np.log10(1 - percentile / 100))


def gaps_over_time(axis: Any, good: list[Record], begin: float, edges: np.ndarray) -> None:
    times = np.array([time - begin for record in good for time in record.times[1:]])
    gaps = np.array([gap * 1e3 for record in good for gap in record.gaps])
    bins = np.clip(np.digitize(times, edges) - 1, 0, BINS - 1) if times.size else np.array([], int)
    filled = np.unique(bins)
    middles = (edges[filled] + edges[filled + 1]) / 2
    for percentile, color in ((50, BLUE), (99, ORANGE)):
        values = [np.percentile(gaps[bins == i], percentile) for i in filled]
        axis.plot(middles, values, color=color, label=f"p{percentile}")
    axis.set(title="inter-token latency over time", ylabel="ms", ylim=(0, None))
    axis.legend()


def tokens_over_time(axis: Any, good: list[Record], begin: float, edges: np.ndarray) -> None:
    # An event may bring several tokens: each stands for its share of the request's.
    times = [time - begin for record in good for time in record.times]
    shares = [record.output_tokens / len(record.times) for record in good for _ in record.times]
    counts, _ = np.histogram(times, edges, weights=shares)
    axis.stairs(counts / np.diff(edges), edges, color=BLUE, fill=True, alpha=0.5)
    axis.set(title="output tokens a second", ylabel="tokens/s", ylim=(0, None))


def running_over_time(axis: Any, records: list[Record], begin: float) -> None:
    steps = sorted(
        [(record.start - begin, 1) for record in records]
        + [((record.times[-1] if record.times else record.start) - begin, -1) for record in records]
    )
    axis.step([time for time, _ in steps], np.cumsum([change for _, change in steps]), where="post", color=BLUE)
    axis.set(title="requests running", ylim=(0, None))
