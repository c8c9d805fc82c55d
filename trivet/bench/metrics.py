"""What a run's records amount to, by the definitions of `vllm bench serve`.

ttft  time to first token: from sending a request to the first event that brings tokens
itl   inter-token latency: from such an event to the next, of all requests together
tpot  time per output token: (end-to-end latency - ttft) / (tokens - 1), one for each request with 2 tokens or more
e2el  end-to-end latency: from sending a request to its last event that brings tokens
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from trivet.bench.load import Record
from trivet.errors import TrivetError

PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft", "itl", "tpot", "e2el")
LIMITED = {"ttft": "ttft", "itl": "itl", "tpot": "tpot", "e2e": "e2el", "e2el": "e2el"}
"""What an SLO may limit, by its names on the command line."""

Slo = dict[str, float]
"""Most milliseconds, by metric."""


def parse_slo(text: str) -> Slo:
    """`ttft=200,itl=50,e2e=3000`: most milliseconds. Raises TrivetError."""
    slo: Slo = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if name not in LIMITED or not limit > 0:
            raise TrivetError(f"--slo must be like ttft=200,itl=50,tpot=50,e2e=3000 (milliseconds), got {text!r}")
        slo[LIMITED[name]] = limit
    return slo


def meets(record: Record, slo: Slo) -> bool:
    """Whether a request was served within all limits; `itl` limits the longest of its gaps."""
    values = {
        "ttft": record.ttft,
        "itl": max(record.gaps, default=0.0),
        "tpot": record.tpot,
        "e2el": record.latency,
    }
    return all(values[name] * 1e3 <= limit for name, limit in slo.items())


def summarise(records: list[Record], seconds: float, slo: Slo) -> dict[str, Any]:
    """Numbers of a run that took `seconds`, by the names that vLLM's result files have. Times are in milliseconds;
    what there is no value of is None.
    """
    good = [record for record in records if record.failure is None]
    prompt_tokens = sum(record.prompt_tokens for record in good)
    output_tokens = sum(record.output_tokens for record in good)
    peak_tokens, peak_requests = peaks(good)
    summary: dict[str, Any] = {
        "duration": seconds,
        "completed": len(good),
        "failed": len(records) - len(good),
        "total_input_tokens": prompt_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": len(good) / seconds,
        "request_goodput": sum(meets(record, slo) for record in good) / seconds if slo else None,
        "output_throughput": output_tokens / seconds,
        "total_token_throughput": (prompt_tokens + output_tokens) / seconds,
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
    }
    for name, values in samples(good).items():
        summary |= {f"{what}_{name}_ms": value for what, value in statistics(values).items()}
    return summary


def samples(good: Iterable[Record]) -> dict[str, list[float]]:
    """All values of each metric, in seconds."""
    good = list(good)
    return {
        "ttft": [record.ttft for record in good],
        "itl": list(itertools.chain.from_iterable(record.gaps for record in good)),
        "tpot": [record.tpot for record in good if record.output_tokens > 1],
        "e2el": [record.latency for record in good],
    }


def statistics(values: list[float]) -> dict[str, float | None]:
    """In milliseconds. Percentiles lie between the two nearest values where they must (numpy's default)."""
    names = ("mean", "median", "std", *(f"p{p}" for p in PERCENTILES), "max")
    if not values:
        return dict.fromkeys(names)
    ms = np.asarray(values) * 1e3
    found = (ms.mean(), np.median(ms), ms.std(), *np.percentile(ms, PERCENTILES), ms.max())
    return dict(zip(names, map(float, found), strict=True))


def peaks(good: list[Record]) -> tuple[float, int]:
    """Most events with tokens in a second, and most requests that were running at some time of one second."""
    if not good:
        return 0.0, 0
    begin = min(record.start for record in good)
    seconds = math.ceil(max(record.times[-1] for record in good) - begin) + 1
    tokens = np.bincount([int(time - begin) for record in good for time in record.times], minlength=seconds)
    running = np.zeros(seconds, int)
    for record in good:
        running[int(record.start - begin) : int(record.times[-1] - begin) + 1] += 1
    return float(tokens.max()), int(running.max())


def failures(records: Iterable[Record]) -> dict[str, tuple[int, str]]:
    """By kind, most frequent first: how many, and what the first of them said."""
    found = [record.failure for record in records if record.failure is not None]
    first = {failure.kind: str(failure) for failure in reversed(found)}
    return {kind: (count, first[kind]) for kind, count in Counter(failure.kind for failure in found).most_common()}


def details(records: list[Record]) -> dict[str, list[Any]]:
    """Every request's own numbers, as vLLM's detailed result files have them; times in seconds."""
    return {
        "input_lens": [record.prompt_tokens for record in records],
        "output_lens": [record.output_tokens if record.failure is None else 0 for record in records],
        "ttfts": [record.ttft if record.times else 0.0 for record in records],
        "itls": [record.gaps for record in records],
        "latencies": [record.latency if record.times else 0.0 for record in records],
        "start_times": [record.start for record in records],
        "errors": ["" if record.failure is None else f"{record.failure.kind}: {record.failure}" for record in records],
    }
