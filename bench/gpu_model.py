"""A whole model on a GPU: loading, prompts, decoding; each beside the machine's limit.

Used by bench/gpu.py. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.gpu_shapes import SHARD_BYTES, Shape
from bench.gpu_table import Row, check
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.request import EngineRequest
from trivet.sampling.params import SamplingParams

WARM_UP = 8
"""Steps before any is timed."""


@dataclass(frozen=True)
class Limits:
    """What a device does, measured: bytes a second that are read, bfloat16 operations a second of a large product."""

    bandwidth: float
    flops: float

    @staticmethod
    def measure(device: str, megabytes: int = 4096, size: int = 8192) -> Limits:
        data = torch.randn(megabytes << 18, dtype=torch.float32, device=device)
        a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
        return Limits(
            bandwidth=data.nbytes / seconds(lambda: data.sum(), device),
            flops=2 * size**3 / seconds(lambda: a @ b, device),
        )


def seconds(call: Callable[[], object], device: str, repeats: int = 10) -> float:
    """The median of a call's times."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return median(times[2:])


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def load(folder: Path, **config: Any) -> tuple[Engine, list[Row]]:
    """An engine, and how fast it took its weights, of files that are in memory."""
    told = Told()
    logger = logging.getLogger("trivet.runtime.cuda.runtime")
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    before, began = peak_memory(), time.perf_counter()
    engine = Engine(EngineConfig(model=str(folder), **config))
    took = time.perf_counter() - began
    logger.removeHandler(told)
    grown = peak_memory() - before
    weights = engine.info.weight_bytes / told.seconds
    return engine, [
        Row("load weights", f"{weights / 1e9:.2f} GB/s", "2 GB/s", weights / 2e9, 1.0),
        check("host memory at its peak", grown / 2**30, SHARD_BYTES / 2**30, "{:+.2f} GiB"),
        Row("start, weights included", f"{took:.1f} s"),
    ]


class Told(logging.Handler):
    """How long a runtime says that its weights took."""

    seconds = float("nan")

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("loaded") and isinstance(record.args, tuple):
            self.seconds = float(record.args[1])  # type: ignore[arg-type]


def peak_memory() -> int:
    """Bytes of this process, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def request(name: str, vocab_size: int, prompt: int, tokens: int) -> EngineRequest:
    ids = np.random.default_rng(list(name.encode())).integers(0, vocab_size, prompt)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    return EngineRequest(request_id=name, prompt=ids.tolist(), params=params, seed=0)


@contextmanager
def decoding(engine: Engine, batch: int, context: int, steps: int) -> Iterator[float]:
    """While this lasts, `batch` sequences of about `context` tokens decode, for `steps` steps at least.

    Gives their mean context in the middle of those steps.
    """
    names = [f"{batch} {index}" for index in range(batch)]
    prompt = context - steps // 2 - WARM_UP
    most = engine.info.max_model_len - prompt  # Those that began first have decoded while the last were read.
    for name in names:
        engine.add(request(name, engine.info.vocab_size, prompt, most))
    seen = dict.fromkeys(names, 0)
    while min(seen.values()) < WARM_UP:
        for chunk in engine.step():
            seen[chunk.request_id] += len(chunk.tokens)
    try:
        yield prompt + sum(seen.values()) / batch + steps / 2
    finally:
        for name in names:
            engine.cancel(name)
        while engine.busy:
            engine.step()


def step_seconds(engine: Engine, batch: int, steps: int) -> float:
    """A step's, from the time of many, each of which brings all a token."""
    began = time.perf_counter()
    tokens = sum(len(chunk.tokens) for _ in range(steps) for chunk in engine.step())
    took = time.perf_counter() - began
    if tokens != batch * steps:
        raise RuntimeError(f"{steps} steps brought {batch} sequences {tokens} tokens")
    return took / steps


def decode(
    engine: Engine,
    shape: Shape,
    product_bytes: int,
    limits: Limits,
    batch: int,
    context: int,
    steps: int = 64,
    cache_bytes: int | None = None,
) -> Row:
    """The bound: all matrices (`product_bytes`) and caches are read once, and each sequence is multiplied by all
    weights. `cache_bytes`: of one token, if not in bfloat16."""
    with decoding(engine, batch, context, steps) as mean:
        took = step_seconds(engine, batch, steps)
    data = product_bytes + round(batch * mean) * (cache_bytes or shape.cache_bytes)
    operations = 2 * batch * shape.product_weights
    bound = max(data / limits.bandwidth, operations / limits.flops)
    return Row(
        f"decode {batch} x {context}",
        f"{took * 1e3:.2f} ms, {batch / took:.0f} tok/s",
        f"{bound * 1e3:.2f} ms, the more of {data / 1e9:.1f} GB and {operations / 1e12:.2f} TFLOP",
        bound / took,
        0.75 if batch == 1 else 0.7,
    )


def prefill(engine: Engine, shape: Shape, limits: Limits, tokens: int, repeats: int = 5) -> Row:
    """The bound: the products with all matrices but the last, and causal attention, at the speed of a large product."""
    times = []
    for repeat in range(repeats + 1):
        engine.add(request(f"prompt {repeat}", engine.info.vocab_size, tokens, 1))
        began = time.perf_counter()
        while engine.busy:
            engine.step()
        times.append(time.perf_counter() - began)
    took = median(times[1:])
    layers = shape.product_weights - shape.hidden * shape.vocab
    operations = 2 * tokens * layers + 2 * shape.layers * shape.heads * shape.head_dim * tokens**2
    bound = operations / limits.flops
    return Row(
        f"prefill {tokens}",
        f"{took * 1e3:.1f} ms, {tokens / took:.0f} tok/s",
        f"{bound * 1e3:.1f} ms = {operations / 1e12:.1f} TFLOP",
        bound / took,
        0.6,
    )


def host_share(engine: Engine, batch: int, context: int, target: bool, steps: int = 32) -> Iterator[Row]:
    """The part of steps in which the GPU has nothing to do, and what it does in the rest. Both are of the same steps,
    which are traced: that may slow the host down, so the share is no smaller than it is otherwise."""
    with decoding(engine, batch, context, 2 * steps):
        took = step_seconds(engine, batch, steps)
        spans = traced(lambda: step_seconds(engine, batch, steps))
    share = idle(spans)
    name = f"host {batch} x {context}"
    reached = ((1 - share) / 0.95, 1.0) if target else (None, None)
    yield Row(name, f"{share:.1%} of {steps} steps traced; {took * 1e3:.2f} ms a step untraced", "5 %", *reached)
    yield Row(f"kernels of decode {batch} x {context}", kernel_times(spans, steps))


def prompt_kernels(engine: Engine, tokens: int) -> Row:
    """What the GPU does in a prompt's time."""
    engine.add(request("traced prompt", engine.info.vocab_size, tokens, 1))

    def run() -> None:
        while engine.busy:
            engine.step()

    return Row(f"kernels of prefill {tokens}", kernel_times(traced(run), 1))


Span = tuple[float, float]


def traced(call: Callable[[], object]) -> list[tuple[str, Span]]:
    """The kernels and copies of a call, and when each began and ended, in microseconds."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize()
    events = [event for event in trace.events() if event.device_type == DeviceType.CUDA]
    return [(event.name, (event.time_range.start, event.time_range.end)) for event in events]


def idle(spans: list[tuple[str, Span]]) -> float:
    """The share of the time from the first beginning to the last end in which there is none of them."""
    first, last = min(start for _, (start, _) in spans), max(end for _, (_, end) in spans)
    return 1 - sum(time for _, time in covered(spans)) / (last - first)


def kernel_times(spans: list[tuple[str, Span]], steps: int, most: int = 8) -> str:
    """Of a step, the longest first. A kernel that waits for the one before counts from the end of that."""
    times: Counter[str] = Counter()
    for name, took in covered(spans):
        times[name.removeprefix("void ").split("<")[0].split("(")[0].split("::")[-1]] += took
    return ", ".join(f"{name} {time / steps / 1e3:.3f} ms" for name, time in times.most_common(most))


def covered(spans: list[tuple[str, Span]]) -> Iterator[tuple[str, float]]:
    """What each span adds to those that began before it."""
    until = float("-inf")
    for name, (start, end) in sorted(spans, key=lambda span: span[1]):
        yield name, max(0.0, end - max(start, until))
        until = max(until, end)
