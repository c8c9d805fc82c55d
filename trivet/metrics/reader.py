"""The engine's statistics as vLLM's `LLM.get_metrics` gives them."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.engine.request import EngineStats, ModelInfo
from trivet.metrics import table
from trivet.metrics.snapshot import gauge_values

PREFIX, SUFFIX = "vllm:", "_total"


@dataclass
class Metric:
    name: str
    labels: dict[str, str]


@dataclass
class Counter(Metric):
    """Never decreases; its name has no `_total`."""

    value: int


@dataclass
class Gauge(Metric):
    value: float


@dataclass
class Histogram(Metric):
    """`buckets` counts what is at most its key. There are none without a server."""

    count: int
    sum: float
    buckets: dict[str, int]


@dataclass
class Vector(Metric):
    """There are none: it is for speculative decoding."""

    values: list[int]


def snapshot(model_name: str, info: ModelInfo, stats: EngineStats) -> list[Metric]:
    """The metrics that the engine itself keeps, by vLLM's names."""
    labels = {"model_name": model_name, "engine": "0"}
    gauges = []
    for key, values in gauge_values(info, stats).items():
        gauge = table.ENGINE_GAUGES[key]
        for name in (name for name in gauge.names if name.startswith(PREFIX)):
            if isinstance(values, dict):
                gauges += [Gauge(name, {**labels, str(gauge.label): kind}, value) for kind, value in values.items()]
            else:
                gauges.append(Gauge(name, labels, values))
    counts = {key: getattr(stats, key) for key in table.ENGINE_COUNTERS}
    counts |= {"prompt_tokens": stats.prompt_tokens, "generation_tokens": stats.generated_tokens}
    rows = table.COUNTERS | table.ENGINE_COUNTERS
    counters = [
        Counter(name.removesuffix(SUFFIX), labels, count)
        for key, count in counts.items()
        for name in rows[key].names
        if name.startswith(PREFIX)
    ]
    return [*gauges, *counters]
