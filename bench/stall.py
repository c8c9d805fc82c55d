"""How long running streams wait for their next token while a long prompt is read.

    python bench/stall.py MODEL.gguf [--streams 8] [--prompt 8000] [--threads 2] [--cpu-time]

Streams decode alone for --alone steps, then the prompt arrives, and when it has been read they go on alone; the gaps
between a stream's tokens are told for all three times, in milliseconds, with the prompt's own time to its first token.
The streams' contexts grow meanwhile, which slows decoding down: compared is with the mean of before and after. On a
machine that others use too, --cpu-time with --threads 1 measures the process's own time instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.pace import Pace
from trivet.engine.request import EngineRequest
from trivet.errors import TrivetError
from trivet.sampling.params import SamplingParams

Clock = Callable[[], float]


def requests(vocab_size: int, streams: int, prompt: int) -> list[EngineRequest]:
    """The streams' requests, then the long one."""
    draw = np.random.default_rng(0)
    lengths = [32] * streams + [prompt]
    return [
        EngineRequest(
            request_id=str(index),
            prompt=draw.integers(0, vocab_size, length).tolist(),
            params=SamplingParams(temperature=0, max_tokens=None if index < streams else 1),
            seed=index,
        )
        for index, length in enumerate(lengths)
    ]


def gaps(engine: Engine, clock: Clock, last: dict[str, float], until: str | None, steps: int) -> list[float]:
    """Seconds between tokens of a stream, over so many steps, or until a request has ended."""
    found: list[float] = []
    for _ in range(steps):
        chunks = engine.step()
        now = clock()
        for chunk in chunks:
            if chunk.request_id in last and chunk.request_id != until:
                found.append(now - last[chunk.request_id])
            last[chunk.request_id] = now
        if any(chunk.request_id == until and chunk.finish_reason for chunk in chunks):
            break
    return found


def line(name: str, seconds: list[float]) -> str:
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99]) * 1e3
    mean, worst = np.mean(seconds) * 1e3, max(seconds) * 1e3
    return f"{name:14}{mean:8.1f}{p50:8.1f}{p90:8.1f}{p99:8.1f}{worst:8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--alone", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()

    clock = time.process_time if args.cpu_time else time.perf_counter
    try:
        engine = Engine(EngineConfig(model=args.model, threads=args.threads))
    except TrivetError as error:
        parser.error(str(error))
    engine.scheduler.pace = Pace(clock)
    *streams, long = requests(engine.info.vocab_size, args.streams, args.prompt)
    for request in streams:
        engine.add(request)
    last: dict[str, float] = {}
    while len(last) < args.streams:
        gaps(engine, clock, last, None, 1)
    alone = gaps(engine, clock, last, None, args.alone)
    print(f"{'gaps, ms':14}{'mean':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    print(line("before", alone), flush=True)
    engine.add(long)
    arrived = clock()
    steps = engine.stats().steps
    beside = gaps(engine, clock, last, long.request_id, args.prompt)
    seconds = clock() - arrived
    print(line("beside prompt", beside), flush=True)
    after = gaps(engine, clock, last, None, args.alone)
    print(line("after", after))
    ratio = np.mean(beside) / np.mean(alone + after)
    print(f"mean gap x {ratio:.2f}; the prompt took {seconds:.1f} s in {engine.stats().steps - steps} steps")


if __name__ == "__main__":
    main()
