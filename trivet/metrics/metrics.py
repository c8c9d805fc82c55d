"""Counts what happens to requests, and exports it with the engine's statistics for Prometheus."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import TracebackType

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from trivet.api.outputs import RequestOutput, RequestStateStats
from trivet.api.request import GenerateRequest
from trivet.engine.request import EngineStats, ModelInfo
from trivet.errors import OverloadedError, RequestError
from trivet.metrics import table


class Metrics:
    """All metrics of one application, in a registry of their own. max_input_tokens: of the longest prompt."""

    def __init__(
        self, model_name: str, info: ModelInfo, stats: Callable[[], EngineStats], max_input_tokens: int
    ) -> None:
        self._vllm_labels = {"model_name": model_name, "engine": "0"}
        self._counts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._registry = CollectorRegistry()
        self._lengths = {
            table.TGI_INPUT: _equal_steps(max_input_tokens),
            table.TGI_LENGTH: _equal_steps(info.max_model_len),
            table.VLLM_LENGTH: _round_steps(info.max_model_len),
        }
        self._named: dict[str, prometheus_client.Histogram] = {}
        self._histograms = {
            key: [self._histogram(name, row) for name in row.names] for key, row in table.HISTOGRAMS.items()
        }
        self._registry.register(_Snapshot(self._counts, self._vllm_labels, info, stats))
        prometheus_client.ProcessCollector(registry=self._registry)

    def count(self, key: str, amount: float = 1, label: str = "") -> None:
        """Add to a row of `table.COUNTERS`."""
        self._counts[key][label] += amount

    def raise_to(self, key: str, value: float) -> None:
        """Let a row of `table.COUNTERS` that holds a maximum be at least `value`."""
        self._counts[key][""] = max(self._counts[key][""], value)

    def observe(self, key: str, value: float) -> None:
        """Add an observation to a row of `table.HISTOGRAMS`."""
        for histogram in self._histograms[key]:
            histogram.observe(value)

    def watch(self, request: GenerateRequest) -> RequestWatch:
        """A context manager around one request; tell it each output."""
        return RequestWatch(self, request)

    def expose(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        text = prometheus_client.generate_latest(self._registry)
        # The library ends every counter's name in _total; those without it pass through it as untyped.
        return text.replace(b" untyped\n", b" counter\n")

    def _histogram(self, name: str, row: table.Histogram) -> prometheus_client.Histogram:
        labels = self._vllm_labels if name.startswith("vllm:") else {}
        if row.method is not None and name.startswith("tgi_batch_"):
            labels = {"method": row.method}
        if name not in self._named:
            rule = row.names[name]
            bounds = self._lengths[rule] if isinstance(rule, str) else rule
            self._named[name] = prometheus_client.Histogram(
                name, row.help, labelnames=list(labels), buckets=bounds, registry=self._registry
            )
        return self._named[name].labels(**labels) if labels else self._named[name]


class RequestWatch:
    """Follows one request of the engine's from its arrival to its end, whatever that is.

    What is refused before, or by the engine as invalid, is counted where it is answered.
    """

    def __init__(self, metrics: Metrics, request: GenerateRequest) -> None:
        self._metrics = metrics
        self._request = request
        self._arrival = time.perf_counter()
        self._last_tokens: dict[int, float] = {}
        self._generated = 0
        self._lengths: dict[int, int] = {}
        """Tokens generated, by sequence."""
        self._finished = False

    def __enter__(self) -> RequestWatch:
        return self

    def output(self, output: RequestOutput) -> None:
        """Count what a delta brings. The prompt counts once it has been processed, that is at the first token."""
        now = time.perf_counter()
        metrics = self._metrics
        for sequence in output.outputs:
            if not sequence.token_ids:
                continue
            if not self._last_tokens:
                metrics.observe("first_token", now - self._arrival)
                self._count_prompt(output)
            previous = self._last_tokens.get(sequence.index)
            if previous is not None:
                metrics.observe("inter_token", now - previous)
            self._last_tokens[sequence.index] = now
            self._generated += len(sequence.token_ids)
            metrics.count("generation_tokens", len(sequence.token_ids))
            self._lengths[sequence.index] = self._lengths.get(sequence.index, 0) + len(sequence.token_ids)
        for sequence in output.outputs:
            if sequence.finish_reason is not None:
                metrics.count("finished", label=sequence.finish_reason)
        if output.finished:
            metrics.count("success")
            self._finished = True
            self._finish(output, now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        match error:
            case RequestError():
                return
            case OverloadedError():
                self._metrics.count("failure", label="overloaded")
            case Exception():
                self._metrics.count("failure", label="generation")
                self._metrics.count("finished", label="error")
            case _:
                self._metrics.count("failure", label="dropped")
                self._metrics.count("finished", label="abort")

    def _count_prompt(self, output: RequestOutput) -> None:
        length, cached = len(output.prompt_token_ids), output.num_cached_tokens
        self._metrics.count("prompt_tokens", length)
        self._metrics.count("prompt_tokens_cached", cached)
        self._metrics.count("prompt_tokens_computed", length - cached)

    def _finish(self, output: RequestOutput, now: float) -> None:
        metrics, params = self._metrics, self._request.params
        metrics.observe("latency", now - self._arrival)
        metrics.observe("prompt_length", len(output.prompt_token_ids))
        metrics.observe("generation_length", self._generated)
        metrics.observe("choices", params.n)
        if params.max_tokens is not None:
            metrics.observe("max_tokens", params.max_tokens)
        if output.metrics is not None and self._generated:
            self._observe_phases(output.metrics)
            metrics.raise_to("longest", len(output.prompt_token_ids) + max(self._lengths.values()))
            metrics.count("timed_prompt_tokens", len(output.prompt_token_ids) - output.num_cached_tokens)
            metrics.count("timed_tokens", self._generated - len(self._lengths))

    def _observe_phases(self, times: RequestStateStats) -> None:
        metrics = self._metrics
        prefill = times.first_token_ts - times.scheduled_ts
        decode = times.last_token_ts - times.first_token_ts
        metrics.observe("queue", times.scheduled_ts - times.queued_ts)
        metrics.observe("prefill", prefill)
        metrics.observe("decode", decode)
        metrics.observe("inference", prefill + decode)
        metrics.observe("mean_time_per_token", (prefill + decode) / self._generated)
        if self._generated > 1:
            metrics.observe("time_per_output_token", decode / (self._generated - 1))
        metrics.count("prompt_seconds", prefill)
        metrics.count("generation_seconds", decode)


_TIMED = ("timed_prompt_tokens", "prompt_seconds", "timed_tokens", "generation_seconds")


def _quotient(count: float, of: float) -> float:
    return count / of if of > 0 else 0.0


class _Snapshot(Collector):
    """Yields the counters, and what the engine says of itself now."""

    def __init__(
        self,
        counts: defaultdict[str, defaultdict[str, float]],
        vllm_labels: dict[str, str],
        info: ModelInfo,
        stats: Callable[[], EngineStats],
    ) -> None:
        self._counts = counts
        self._vllm_labels = vllm_labels
        self._info = info
        self._stats = stats
        self._scraped: dict[str, float] = {}
        """Counts at the last scrape."""

    def collect(self) -> Iterator[Metric]:
        for key, row in table.COUNTERS.items():
            unseen: dict[str, float] = {} if row.label else {"": 0}
            yield from self._counter(row, self._counts[key] or unseen)
        stats, info = self._stats(), self._info
        for key, row in table.ENGINE_COUNTERS.items():
            yield from self._counter(row, {"": getattr(stats, key)})
        values = gauge_values(info, stats)
        for key, gauge in table.ENGINE_GAUGES.items():
            for name in gauge.names:
                labels = self._labels(name)
                family = GaugeMetricFamily(name, gauge.help, labels=list(labels))
                family.add_metric(list(labels.values()), values[key])
                yield family
        yield from self._rates(stats)
        yield self._cache_config()

    def _rates(self, stats: EngineStats) -> Iterator[Metric]:
        since, self._scraped = self._scraped, {key: self._counts[key][""] for key in _TIMED}
        new = {key: count - since.get(key, 0.0) for key, count in self._scraped.items()}
        values = {
            "prompt_rate": _quotient(new["timed_prompt_tokens"], new["prompt_seconds"]),
            "generation_rate": _quotient(new["timed_tokens"], new["generation_seconds"]),
            "sequences_per_step": _quotient(stats.sequence_steps, stats.steps),
        }
        for key, gauge in table.RATES.items():
            for name in gauge.names:
                yield GaugeMetricFamily(name, gauge.help, values[key])

    def _counter(self, row: table.Counter, counts: dict[str, float]) -> Iterator[Metric]:
        for name in row.names:
            plain = not name.endswith("_total")
            family = Metric(name.removesuffix("_total"), row.help, "unknown" if plain else "counter")
            for label, count in counts.items():
                family.add_sample(name, self._labels(name) | ({row.label: label} if row.label else {}), count)
            yield family

    def _cache_config(self) -> Metric:
        info = self._info
        facts = {
            "block_size": info.block_size,
            "num_gpu_blocks": info.num_blocks,
            "kv_cache_size_tokens": info.num_blocks * info.block_size,
            "kv_cache_max_concurrency": info.num_blocks * info.block_size / info.max_model_len,
            "cache_bytes": info.cache_bytes,
        }
        labels = self._vllm_labels | {key: str(value) for key, value in facts.items()}
        family = GaugeMetricFamily("vllm:cache_config_info", "How the KV cache is set up.", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family

    def _labels(self, name: str) -> dict[str, str]:
        return self._vllm_labels if name.startswith("vllm:") else {}


def gauge_values(info: ModelInfo, stats: EngineStats) -> dict[str, float]:
    """The value of each of `table.ENGINE_GAUGES`."""
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "cache_usage": stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0,
        "cache_tokens_used": stats.blocks_used * info.block_size,
        "cache_tokens": info.num_blocks * info.block_size,
    }


def _equal_steps(most: int) -> list[float]:
    return [most * step / 100 for step in range(1, 101)]


def _round_steps(most: int) -> list[float]:
    bounds = [float(m * 10**e) for e in range(len(str(most))) for m in (1, 2, 5)]
    return [bound for bound in bounds if bound <= most]
