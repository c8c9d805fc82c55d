"""What is counted and what the engine says of itself, read at each scrape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from trivet.engine.request import EngineStats, ModelInfo
from trivet.engine.steps import StepHistograms
from trivet.metrics import table

Counts = defaultdict[str, defaultdict[str, float]]
"""Row of `table.COUNTERS` -> value of its label, or "" -> count."""


class Snapshot(Collector):
    """Yields the counters, and `stats`. common: values of the labels that all series of vLLM's have."""

    def __init__(
        self,
        counts: Counts,
        common: Mapping[str, str],
        info: ModelInfo,
        cache_config: Mapping[str, object],
    ) -> None:
        self._counts = counts
        self._common = common
        self._info = info
        self.stats = EngineStats()
        self._cache_config = dict(cache_config) | cache_facts(info)
        self._scraped: defaultdict[str, float] = defaultdict(float)
        """Counters as they were at the last scrape."""

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        for key, row in table.COUNTERS.items():
            unseen: dict[str, float] = {} if row.label else {"": 0}
            # A copy: others may count in the meantime.
            yield from self._counters(row.names, row.help, row.label, dict(self._counts[key]) or unseen)
        for key, row in table.ENGINE_COUNTERS.items():
            yield from self._counters(row.names, row.help, None, {"": getattr(stats, key)})
        steps = StepHistograms(self._info.max_num_seqs, stats.histograms)
        values = gauge_values(self._info, stats) | self._recent(steps)
        for key, gauge in (table.ENGINE_GAUGES | table.RECENT_GAUGES).items():
            yield from self._gauges(gauge, values[key])
        for counter in table.STEP_COUNTERS:
            counts = {
                label: float(steps.total(row) - (steps.total(counter.less[label]) if counter.less else 0))
                for label, row in counter.rows.items()
            }
            yield from self._counters((counter.name,), counter.help, counter.label, counts)
        for histogram in table.STEP_HISTOGRAMS:
            yield from self._histograms(histogram, steps)
        yield self._cache_info()

    def _counters(
        self, names: Sequence[str], help: str, label: str | None, counts: Mapping[str, float]
    ) -> Iterator[Metric]:
        for name in names:
            plain = not name.endswith("_total")
            family = Metric(name.removesuffix("_total"), help, "unknown" if plain else "counter")
            for value, count in counts.items():
                family.add_sample(name, self._labels(name) | ({label: value} if label else {}), count)
            yield family

    def _gauges(self, row: table.Gauge, values: float | dict[str, float]) -> Iterator[Metric]:
        for name in row.names:
            common = self._labels(name)
            family = GaugeMetricFamily(name, row.help, labels=[*common, *([row.label] if row.label else [])])
            for value, number in values.items() if isinstance(values, dict) else [(None, values)]:
                family.add_metric([*common.values(), *([value] if value else [])], number)
            yield family

    def _histograms(self, row: table.StepHistogram, steps: StepHistograms) -> Iterator[Metric]:
        for name, bounds in row.names.items():
            assert not isinstance(bounds, str)
            common = self._labels(name)
            family = HistogramMetricFamily(name, row.help, labels=[*common, *([row.label] if row.label else [])])
            for value, key in row.rows.items():
                *counts, total = steps.counts(key)
                # No more are admitted than may run: above that, every bucket has all.
                counts += [total] * (len(bounds) - len(counts))
                pairs = [(floatToGoString(bound), float(n)) for bound, n in zip(bounds, counts, strict=True)]
                labels = [*common.values(), *([value] if value else [])]
                family.add_metric(labels, [*pairs, ("+Inf", float(total))], steps.sum(key))
            yield family

    def _recent(self, steps: StepHistograms) -> dict[str, float]:
        """The values of `table.RECENT_GAUGES`; the rates begin anew with every scrape."""

        def rate(count: str, seconds: str) -> float:
            grown = []
            for key in (count, seconds):
                now = self._counts[key][""]
                grown.append(now - self._scraped[key])
                self._scraped[key] = now
            return grown[0] / grown[1] if grown[1] else 0.0

        total = steps.total("sequences")
        return {
            "prompt_rate": rate("prompt_tokens_computed", "prompt_seconds"),
            "generation_rate": rate("generation_tokens", "generation_seconds"),
            "busy": steps.sum("sequences") / total if total else 0.0,
        }

    def _cache_info(self) -> Metric:
        [name] = table.CACHE_CONFIG.names
        labels = self._labels(name) | {key: str(self._cache_config.get(key)) for key in table.CACHE_LABELS}
        family = GaugeMetricFamily(name, table.CACHE_CONFIG.help, labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family

    def _labels(self, name: str) -> dict[str, str]:
        return {label: self._common[label] for label in table.common_labels(name)}


def gauge_values(info: ModelInfo, stats: EngineStats) -> dict[str, float | dict[str, float]]:
    """The value of each of `table.ENGINE_GAUGES`, by the value of its label where it has one."""
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "waiting_by_reason": {"capacity": stats.waiting - stats.deferred, "deferred": stats.deferred},
        "cache_usage": stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0,
        "cache_tokens_used": stats.blocks_used * info.block_size,
        "cache_tokens": info.num_blocks * info.block_size,
        "sleep_state": {"awake": 1, "weights_offloaded": 0, "discard_all": 0},
    }


def cache_facts(info: ModelInfo) -> dict[str, object]:
    """What the engine itself knows of `table.CACHE_LABELS`."""
    tokens = info.num_blocks * info.block_size
    return {
        "block_size": info.block_size,
        "num_gpu_blocks": info.num_blocks,
        "num_cpu_blocks": 0,
        "kv_cache_size_tokens": tokens,
        "kv_cache_max_concurrency": tokens / info.max_model_len,
        "cache_bytes": info.cache_bytes,
    }
