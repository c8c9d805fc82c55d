"""A whole benchmark: ask what must be known, make the prompts, put on the load."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from trivet.bench import probe
from trivet.bench.load import Record, Request, Target, run
from trivet.bench.prompts import MakePrompt, from_words
from trivet.bench.workload import Shape
from trivet.text.tokenizer import Tokenizer


@dataclass
class Result:
    """seconds: from the start to the last answer. busy: of them, those this process worked. lengths_known: whether
    the server counts prompts, so that theirs could be made right. model: as asked for.
    """

    records: list[Record]
    seconds: float
    busy: float
    lengths_known: bool
    model: str | None


async def benchmark(
    target: Target,
    schedule: Iterable[tuple[Shape, float]],
    *,
    seed: int,
    tokenizer: Tokenizer | None = None,
    concurrency: int | None = None,
    duration: float | None = None,
    done: Callable[[Record], None] = lambda _: None,
) -> Result:
    """Raises TrivetError when the server does not answer the first request."""
    try:
        if target.dialect.names_model and target.options.model is None:
            model = await probe.first_model(target.client)
            target = dataclasses.replace(target, options=dataclasses.replace(target.options, model=model))
        rng = np.random.default_rng([seed, 1])
        make = await probe.prompt_maker(target, rng, tokenizer)
        requests: Iterable[Request] = to_requests(schedule, make or from_words(rng, 0.0, 1.0))
        if isinstance(schedule, list):
            # Made before the run, not in it.
            requests = list(requests)
        busy = time.process_time()
        records, seconds = await run(target, requests, concurrency=concurrency, duration=duration, done=done)
        busy = time.process_time() - busy
        return Result(records, seconds, busy, make is not None, target.options.model)
    finally:
        target.client.close()


def to_requests(schedule: Iterable[tuple[Shape, float]], make: MakePrompt) -> Iterator[Request]:
    for shape, due in schedule:
        prompt = make(shape.input_len) if shape.prompt is None else shape.prompt
        yield Request(prompt, shape.input_len, shape.output_len, due)
