"""docs/metrics.md, made from the table: `python -m trivet.metrics.documentation > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trivet.metrics import table

INTRODUCTION = """\
# Metrics

`GET /metrics` speaks Prometheus' text format. What is known is told by the names that vLLM, TGI and llama.cpp have for
it, with their labels and buckets, so that dashboards and alerts made for them work unchanged: see
[observability](observability.md). Names are the table's in `trivet/metrics/table.py`; this page is made from it.

Every `vllm:…` series has the labels `model_name` (the first served name) and `engine` (`0`), but for
`vllm:admission_rejections_total`, which has no `engine`. A histogram has `_bucket`, `_sum` and `_count`.

What differs from the peers:

- A chat is one `tgi_request_count`, and so is a request with several prompts.
- A step of the engine can compute parts of prompts and generate tokens at once: then its `method` is `prefill`.
- `tgi_batch_concat` has one reason: sequences join whenever there is room for them.
- `tgi_batch_max_total_tokens` is there; TGI itself forgets it.
- `llamacpp:prompt_tokens_seconds` and `llamacpp:predicted_tokens_seconds` begin anew with every scrape, as
  llama.cpp's do: rates of the counters serve several who scrape.
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One exported name. labels: all of them but `le`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    bounds: table.Bounds = ()

    @property
    def samples(self) -> list[str]:
        """What its lines are called."""
        endings = {"histogram": ["_bucket", "_sum", "_count"], "summary": ["_sum", "_count"]}.get(self.kind, [""])
        return [self.name + ending for ending in endings]


def series() -> Iterator[Series]:
    """All of the table."""

    def one(name: str, kind: str, label: str | None, help: str, bounds: table.Bounds = ()) -> Series:
        return Series(name, kind, (*table.common_labels(name), *([label] if label else [])), help, bounds)

    for counter in [*table.COUNTERS.values(), *table.ENGINE_COUNTERS.values()]:
        yield from (one(name, "counter", counter.label, counter.help) for name in counter.names)
    for steps in table.STEP_COUNTERS:
        yield one(steps.name, "counter", steps.label, steps.help)
    for gauge in [*table.ENGINE_GAUGES.values(), *table.RECENT_GAUGES.values()]:
        yield from (one(name, "gauge", gauge.label, gauge.help) for name in gauge.names)
    for name in table.CACHE_CONFIG.names:
        yield Series(name, "gauge", (*table.common_labels(name), *table.CACHE_LABELS), table.CACHE_CONFIG.help)
    for histogram in table.HISTOGRAMS.values():
        for name, bounds in histogram.names.items():
            yield one(name, "histogram", None, histogram.help, bounds)
    for step in table.STEP_HISTOGRAMS:
        for name, bounds in step.names.items():
            yield one(name, "histogram", step.label, step.help, bounds)
    for http in table.HTTP.values():
        kind = "histogram" if http.bounds else "counter" if http.name.endswith("_total") else "summary"
        yield Series(http.name, kind, http.labels, http.help, http.bounds)


PEERS = {"vLLM": "vllm:", "TGI": "tgi_", "llama.cpp": "llamacpp:", "HTTP": "http_"}
"""Headings, and how names under them begin."""


def page() -> str:
    everything = sorted(series(), key=lambda one: one.name)
    lines = [INTRODUCTION]
    for peer, prefix in PEERS.items():
        lines += [f"## {peer}", "", "| name | type | labels | buckets | what it is |", "|---|---|---|---|---|"]
        for one in everything:
            if one.name.startswith(prefix):
                labels = ", ".join(f"`{label}`" for label in one.labels if label not in ("model_name", "engine"))
                lines.append(f"| `{one.name}` | {one.kind} | {labels} | {_buckets(one.bounds)} | {one.help} |")
        lines.append("")
    lines += [
        "Paths that only look at the server (`/metrics`, `/health`, …) are not counted. Beside these are the "
        f"{' and '.join(f'`{name}`' for name in table.PROCESS)} of prometheus_client, of the process with the API.",
        "",
        "## Not there",
        "",
        "| name | why |",
        "|---|---|",
        *(f"| `{name}` | {why} |" for name, why in table.ABSENT.items()),
    ]
    return "\n".join(lines) + "\n"


def _buckets(bounds: table.Bounds) -> str:
    if isinstance(bounds, str):
        return bounds
    if len(bounds) <= 24:
        return " ".join(f"{bound:g}" for bound in bounds)
    return f"{bounds[0]:g} {bounds[1]:g} {bounds[2]:g} … {bounds[-1]:g} ({len(bounds)})"


if __name__ == "__main__":
    print(page(), end="")
