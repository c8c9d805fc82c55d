"""What is asked for, and when: lengths of prompts and answers, and times of arrival."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from trivet.errors import TrivetError

DEFAULT_REQUESTS = 100


@dataclass(frozen=True)
class Shape:
    """One request before it has a text.

    input_len, output_len: tokens. arrival: seconds after the first, in a trace. prompt: where a file gives it.
    """

    input_len: int
    output_len: int
    arrival: float | None = None
    prompt: str | None = None


def fixed(input_len: int, output_len: int) -> Iterator[Shape]:
    return itertools.repeat(Shape(input_len, output_len))


@dataclass(frozen=True)
class LogNormal:
    """Lengths whose logarithm is normal, with the mean `mean` and the spread `sigma`, cut off at `LIMITS`."""

    mean: float
    sigma: float

    def draw(self, rng: np.random.Generator, scale: float) -> int:
        length = rng.lognormal(math.log(self.mean) - self.sigma**2 / 2, self.sigma)
        return max(1, round(min(max(length, LIMITS[0]), LIMITS[1]) * scale))


LIMITS = (4, 2048)
SHAREGPT_INPUT, SHAREGPT_OUTPUT = LogNormal(161.31, 1.4), LogNormal(337.99, 0.9)
"""The means are those that the PagedAttention paper (SOSP 2023, figure 11) gives for ShareGPT; the spreads are
chosen for the long tails drawn there."""


def sharegpt_like(rng: np.random.Generator, scale: float = 1.0) -> Iterator[Shape]:
    while True:
        yield Shape(SHAREGPT_INPUT.draw(rng, scale), SHAREGPT_OUTPUT.draw(rng, scale))


def azure_trace(path: str | Path, scale: float = 1.0, rate_scale: float = 1.0) -> list[Shape]:
    """The rows of a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens, in order of time.

    scale: of lengths. rate_scale: 2 is twice the rate. Raises TrivetError.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} - set(rows.fieldnames or ())
        if missing:
            raise TrivetError(f"{path} is not an Azure trace: it has no column {', '.join(sorted(missing))}")
        try:
            found = sorted(
                (
                    datetime.fromisoformat(row["TIMESTAMP"]).timestamp(),
                    int(row["ContextTokens"]),
                    int(row["GeneratedTokens"]),
                )
                for row in rows
            )
        except (ValueError, TypeError) as error:
            raise TrivetError(f"{path}: line {rows.line_num}: {error}") from None
    return [
        Shape(max(1, round(context * scale)), max(1, round(generated * scale)), (time - found[0][0]) / rate_scale)
        for time, context, generated in found
    ]


def from_file(path: str | Path, output_len: int) -> list[Shape]:
    """The lines of a JSON Lines file: {"prompt": text, "output_tokens": number, else `output_len`}.

    Raises TrivetError.
    """

    class Line(msgspec.Struct):
        prompt: str
        output_tokens: int = output_len

    shapes = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TrivetError(f"{path}: line {number}: {error}") from None
        if found.output_tokens < 1:
            raise TrivetError(f"{path}: line {number}: output_tokens must be at least 1, got {found.output_tokens}")
        shapes.append(Shape(0, found.output_tokens, prompt=found.prompt))
    return shapes


def schedule(
    shapes: Iterable[Shape],
    rng: np.random.Generator,
    *,
    requests: int | None = None,
    rate: float | None = None,
    concurrency: int | None = None,
    duration: float | None = None,
) -> Iterable[tuple[Shape, float]]:
    """Which requests are sent, and the seconds after the start at which each is due.

    At a rate, they are due at random times; else at their trace's times, unless concurrency sets the pace; else at
    once. A list, or where only time ends a run, an endless iterator. Raises TrivetError.
    """
    if requests is None and rate is not None and not math.isinf(rate) and duration is not None:
        requests = math.ceil(rate * duration)
    elif requests is None and duration is None:
        requests = min(DEFAULT_REQUESTS, len(shapes)) if isinstance(shapes, list) else DEFAULT_REQUESTS
    if isinstance(shapes, list):
        if not shapes:
            raise TrivetError("the workload is empty")
        requests = len(shapes) if requests is None else requests
        if requests > len(shapes):
            raise TrivetError(f"the workload has {len(shapes)} requests, not {requests}")
    if requests is None:
        if not concurrency:
            raise TrivetError(
                "--duration does not end a run that sends all at once: give --requests, --rate or --concurrency"
            )
        return ((shape, 0.0) for shape in shapes)
    chosen = list(itertools.islice(shapes, requests))
    if rate is not None:
        return list(zip(chosen, poisson(rng, rate, requests), strict=True))
    return [(shape, 0.0 if concurrency else shape.arrival or 0.0) for shape in chosen]


def poisson(rng: np.random.Generator, rate: float, count: int) -> list[float]:
    """Times of `count` arrivals at `rate` a second, stretched so that the last comes at `count / rate`: the rate of
    a run is then the same for every seed (as in `vllm bench serve`). An infinite rate is all at once.
    """
    if math.isinf(rate):
        return [0.0] * count
    times = np.cumsum(rng.exponential(size=count))
    return (times / times[-1] * (count / rate)).tolist()
