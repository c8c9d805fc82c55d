"""What dashboards and alerts ask for is there: ours in deploy/, and those that TGI and vLLM publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from trivet.metrics.documentation import series

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/trivet.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
TARGET = {"instance", "job"}
"""Labels that Prometheus itself gives."""
PROCESS = ("up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds")
LABELS = dict.fromkeys(PROCESS, TARGET) | {
    sample: TARGET | set(one.labels) | ({"le"} if sample.endswith("_bucket") else set())
    for one in series()
    for sample in one.samples
}
"""Of every sample's name."""

VLLM = [
    *(
        f'{query}({name}{{model_name="$model_name"}}[5m])'
        for query in ("rate", "increase")
        for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    ),
    *(
        f'histogram_quantile(0.99, sum by(le) (rate({name}_bucket{{model_name="$model_name"}}[5m])))'
        f' or rate({name}_sum{{model_name="$model_name"}}[5m]) / rate({name}_count{{model_name="$model_name"}}[5m])'
        for name in (
            "vllm:e2e_request_latency_seconds",
            "vllm:inter_token_latency_seconds",
            "vllm:time_to_first_token_seconds",
        )
    ),
    *(
        f'sum by(le) (increase({name}_bucket{{model_name="$model_name"}}[5m]))'
        for name in ("vllm:request_prompt_tokens", "vllm:request_generation_tokens")
    ),
    *(
        f'rate({name}_sum{{model_name="$model_name"}}[5m])'
        for name in (
            "vllm:request_queue_time_seconds",
            "vllm:request_prefill_time_seconds",
            "vllm:request_decode_time_seconds",
            "vllm:request_max_num_generation_tokens",
        )
    ),
    'vllm:num_requests_running{model_name="$model_name"}',
    'vllm:num_requests_waiting{model_name="$model_name"}',
    'vllm:kv_cache_usage_perc{model_name="$model_name"}',
    'sum by(finished_reason) (increase(vllm:request_success_total{model_name="$model_name"}[5m]))',
]
"""The panels of vLLM's dashboard."""

TGI = [
    *(
        f"histogram_quantile(0.5, sum by (le) (rate({name}_bucket{{{labels}}}[5m])))"
        for name, labels in (
            ("tgi_request_queue_duration", ""),
            ("tgi_request_duration", ""),
            ("tgi_request_mean_time_per_token_duration", ""),
            ("tgi_request_input_length", ""),
            ("tgi_request_generated_tokens", ""),
            ("tgi_batch_inference_duration", 'method="prefill"'),
            ("tgi_batch_inference_duration", 'method="decode"'),
            ("tgi_batch_forward_duration", 'method="decode"'),
            ("tgi_batch_decode_duration", 'method="decode"'),
            ("tgi_batch_filter_duration", 'method="decode"'),
            ("tgi_batch_concat_duration", 'method="decode"'),
        )
    ),
    "sum(increase(tgi_request_success[1m]))",
    "sum by (err) (increase(tgi_request_failure[1m]))",
    "sum by (reason) (rate(tgi_batch_concat[1m]))",
    "count(tgi_request_count)",
    "tgi_queue_size",
    "tgi_batch_current_max_tokens",
    "tgi_batch_current_size",
    "sum(rate(tgi_request_generated_tokens_sum[1m]))",
    "rate(tgi_batch_inference_count[1m]) - rate(tgi_batch_inference_success[1m])",
]
"""The panels of TGI's, without the container that the scrape gives."""


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            yield variable["name"], f"sum by ({label}) ({selector})"
    for group in ALERTS["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    yield from (("vLLM", query) for query in VLLM)
    yield from (("TGI", query) for query in TGI)


def nodes(tree: promql.Expr) -> list[Any]:
    found: list[Any] = []
    promql.walk(tree, found.append)
    return found


def groupings(node: Any) -> set[str]:
    """Labels by which an expression groups or joins."""
    modifier = getattr(node, "modifier", None)
    return set(getattr(getattr(modifier, "matching", modifier), "labels", None) or ())


@pytest.mark.parametrize(
    "query", [pytest.param(query, id=f"{where}-{i}") for i, (where, query) in enumerate(queries())]
)
def test_it_asks_for_what_is_there(query: str):
    found = nodes(promql.parse(query.replace("$__rate_interval", "5m")))
    labels: set[str] = set()
    for selector in found:
        if isinstance(selector, promql.VectorSelector):
            assert selector.name in LABELS
            assert {matcher.name for matcher in selector.matchers.matchers} <= LABELS[selector.name]
            labels |= LABELS[selector.name]
    assert labels
    assert set().union(*map(groupings, found)) <= labels


@pytest.mark.parametrize(
    "wrong", ["rate(vllm:no_such_total[5m])", "tgi_queue_size{model_name='x'}", "sum by (err) (up)"]
)
def test_it_would_notice(wrong: str):
    with pytest.raises(AssertionError):
        test_it_asks_for_what_is_there(wrong)


def test_the_dashboard_is_whole():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert all(0 <= x < 24 for x, _ in cells)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"DS_PROMETHEUS", "model_name", "instance"}
    assert all(panel["datasource"]["uid"] == "${DS_PROMETHEUS}" for panel in panels if panel["type"] != "row")


def test_the_scrape_file_names_the_rules():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == ["alerts.yml"]
    [job] = config["scrape_configs"]
    assert job["job_name"] == "trivet" and "metrics_path" not in job
