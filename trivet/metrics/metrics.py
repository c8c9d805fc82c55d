"""Counts what happens to requests, and exports it with the engine's statistics for Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import prometheus_client
from prometheus_client.registry import CollectorRegistry

from trivet.api.request import GenerateRequest
from trivet.engine.request import EngineStats, ModelInfo
from trivet.metrics import table
from trivet.metrics.snapshot import Counts, Snapshot
from trivet.metrics.watch import RequestWatch


class Metrics:
    """All metrics of one application, in a registry of their own.

    max_input_tokens: of the longest prompt. cache_config: what of `table.CACHE_LABELS` the engine does not tell.
    """

    def __init__(
        self,
        model_name: str,
        info: ModelInfo,
        max_input_tokens: int,
        cache_config: Mapping[str, object],
    ) -> None:
        self._common = {"model_name": model_name, "engine": "0"}
        self._counts: Counts = defaultdict(lambda: defaultdict(float))
        self._registry = registry = CollectorRegistry()
        self._lengths = {
            table.TGI_INPUT: _equal_steps(max_input_tokens),
            table.TGI_LENGTH: _equal_steps(info.max_model_len),
            table.VLLM_LENGTH: _round_steps(info.max_model_len),
        }
        self._histograms = {
            key: [self._histogram(name, row.help, bounds) for name, bounds in row.names.items()]
            for key, row in table.HISTOGRAMS.items()
        }
        http = {key: (row.name, row.help, row.labels) for key, row in table.HTTP.items()}
        self._http_requests = prometheus_client.Counter(*http["requests"], registry=registry)
        self._http_sizes = [
            prometheus_client.Summary(*http[key], registry=registry) for key in ("request_bytes", "response_bytes")
        ]
        self._http_seconds, self._http_fine_seconds = (
            prometheus_client.Histogram(*http[key], buckets=table.HTTP[key].bounds, registry=registry)
            for key in ("seconds", "fine_seconds")
        )
        self._snapshot = Snapshot(self._counts, self._common, info, cache_config)
        registry.register(self._snapshot)
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

    def count(self, key: str, amount: float = 1, label: str = "") -> None:
        """Add to a row of `table.COUNTERS`."""
        self._counts[key][label] += amount

    def count_overload(self) -> None:
        """Count a request that was refused for want of room."""
        self.count("failure", label="overloaded")
        self.count("rejections", label="queue_full")

    def at_least(self, key: str, value: float) -> None:
        """Raise a row of `table.COUNTERS` that is the greatest of some values."""
        counts = self._counts[key]
        counts[""] = max(counts[""], value)

    def observe(self, key: str, value: float) -> None:
        """Add an observation to a row of `table.HISTOGRAMS`."""
        for histogram in self._histograms[key]:
            histogram.observe(value)

    def count_http(self, method: str, handler: str, status: int, seconds: float, sizes: Sequence[int]) -> None:
        """Count an HTTP request. handler: the path of its route. sizes: bytes of its body, and of the answer's."""
        self._http_requests.labels(method, f"{status // 100}xx", handler).inc()
        for summary, size in zip(self._http_sizes, sizes, strict=True):
            summary.labels(handler).observe(size)
        self._http_seconds.labels(method, handler).observe(seconds)
        self._http_fine_seconds.observe(seconds)

    def watch(self, request: GenerateRequest) -> RequestWatch:
        """A context manager around one request; tell it each output."""
        return RequestWatch(self, request)

    def expose(self, stats: EngineStats) -> bytes:
        """Prometheus' text format, version 0.0.4. It takes some ten milliseconds, and may be made in any thread."""
        self._snapshot.stats = stats
        text = prometheus_client.generate_latest(self._registry)
        # The library ends every counter's name in _total; those without it pass through it as untyped.
        return text.replace(b" untyped\n", b" counter\n")

    def _histogram(self, name: str, help: str, bounds: table.Bounds) -> prometheus_client.Histogram:
        labels = {label: self._common[label] for label in table.common_labels(name)}
        buckets = self._lengths[bounds] if isinstance(bounds, str) else bounds
        made = prometheus_client.Histogram(name, help, list(labels), buckets=buckets, registry=self._registry)
        return made.labels(**labels) if labels else made


def _equal_steps(most: int) -> list[float]:
    return [most * step / 100 for step in range(1, 101)]


def _round_steps(most: int) -> list[float]:
    bounds = [float(m * 10**e) for e in range(len(str(most))) for m in (1, 2, 5)]
    return [bound for bound in bounds if bound <= most]
