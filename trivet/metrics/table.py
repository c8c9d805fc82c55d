"""The table of metrics: each fact once, with the names that dashboards for vLLM, TGI and llama.cpp know it by.

Series called `vllm:…` carry the labels `model_name` and `engine`. Counters of TGI have no `_total` suffix; those with
labels appear when there is something to count. docs/metrics.md is made from this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trivet.engine.steps import DURATIONS, METHODS, MOST_ADMITTED, TOKENS

LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80, 160, 640, 2560),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
HTTP_FINE = (*(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60),)
HTTP_COARSE = (0.1, 0.5, 1)
CHOICES = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
TGI_INPUT = "100 equal steps up to the longest prompt"
TGI_LENGTH = "100 equal steps up to the context length"
VLLM_LENGTH = "1, 2, 5, 10, … up to the context length"

Bounds = Sequence[float] | str
"""Upper bounds of buckets, or the name of a rule that makes them."""


@dataclass(frozen=True, slots=True)
class Counter:
    """`names` are as exported; `label` tells kinds of the event apart."""

    help: str
    names: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    """`label` as of a Counter."""

    help: str
    names: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Exported name -> buckets."""

    help: str
    names: dict[str, Bounds]


@dataclass(frozen=True, slots=True)
class StepHistogram:
    """Of the engine's steps. rows: the label's value (None without one) -> name in StepHistograms."""

    help: str
    names: dict[str, Bounds]
    rows: dict[str | None, str]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class StepCounter:
    """How many values those of StepHistograms have; rows as of a StepHistogram, less those of other rows."""

    help: str
    name: str
    label: str
    rows: dict[str, str]
    less: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpMetric:
    """Those of prometheus-fastapi-instrumentator, which vLLM's server has."""

    help: str
    name: str
    labels: tuple[str, ...]
    bounds: Sequence[float] = ()


COUNTERS = {
    "requests": Counter("Requests received.", ("tgi_request_count",)),
    "finished": Counter("Sequences ended.", ("vllm:request_success_total",), label="finished_reason"),
    "success": Counter("Requests finished.", ("tgi_request_success",)),
    "failure": Counter("Requests failed.", ("tgi_request_failure",), label="err"),
    "rejections": Counter("Requests refused for want of room.", ("vllm:admission_rejections_total",), label="reason"),
    "prompt_tokens": Counter("Prompt tokens processed.", ("vllm:prompt_tokens_total",)),
    "prompt_tokens_by_source": Counter(
        "Prompt tokens, by whether they were computed or found in the prefix cache.",
        ("vllm:prompt_tokens_by_source_total",),
        label="source",
    ),
    "prompt_tokens_computed": Counter(
        "Prompt tokens processed, without those found in the prefix cache.", ("llamacpp:prompt_tokens_total",)
    ),
    "prompt_tokens_cached": Counter(
        "Prompt tokens found in the prefix cache.",
        ("vllm:prompt_tokens_cached_total", "llamacpp:prompt_tokens_cached_total"),
    ),
    "prompt_tokens_cached_by_source": Counter(
        "Prompt tokens found in the prefix cache, by where it is.",
        ("vllm:prompt_tokens_cached_by_source_total",),
        label="source",
    ),
    "generation_tokens": Counter(
        "Tokens generated.", ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
    ),
    "prompt_seconds": Counter("Time spent on prompts, in seconds.", ("llamacpp:prompt_seconds_total",)),
    "generation_seconds": Counter(
        "Time spent on generation, in seconds.", ("llamacpp:tokens_predicted_seconds_total",)
    ),
    "longest": Counter("Tokens of the longest sequence so far.", ("llamacpp:n_tokens_max",)),
}
"""Counted as requests come and go."""

HISTOGRAMS = {
    "first_token": Histogram(
        "Time from arrival to the first token, in seconds.", {"vllm:time_to_first_token_seconds": FIRST_TOKEN}
    ),
    "inter_token": Histogram(
        "Time between tokens of a sequence, in seconds.", {"vllm:inter_token_latency_seconds": PER_TOKEN}
    ),
    "time_per_output_token": Histogram(
        "A request's mean time per token after the first, in seconds.",
        {"vllm:request_time_per_output_token_seconds": PER_TOKEN},
    ),
    "mean_time_per_token": Histogram(
        "A request's inference time per token, in seconds.",
        {"tgi_request_mean_time_per_token_duration": DURATIONS},
    ),
    "latency": Histogram(
        "Time from arrival to the last token, in seconds.",
        {"vllm:e2e_request_latency_seconds": LATENCY, "tgi_request_duration": DURATIONS},
    ),
    "validation": Histogram(
        "Time to validate and tokenise a request of TGI's, in seconds.",
        {"tgi_request_validation_duration": DURATIONS},
    ),
    "queue": Histogram(
        "Time from queueing to the first scheduling, in seconds.",
        {"vllm:request_queue_time_seconds": LATENCY, "tgi_request_queue_duration": DURATIONS},
    ),
    "prefill": Histogram(
        "Time from scheduling to the first token, in seconds.", {"vllm:request_prefill_time_seconds": LATENCY}
    ),
    "decode": Histogram(
        "Time from the first to the last token, in seconds.", {"vllm:request_decode_time_seconds": LATENCY}
    ),
    "inference": Histogram(
        "Time from scheduling to the last token, in seconds.",
        {"vllm:request_inference_time_seconds": LATENCY, "tgi_request_inference_duration": DURATIONS},
    ),
    "prompt_length": Histogram(
        "Prompt tokens of a request.",
        {"vllm:request_prompt_tokens": VLLM_LENGTH, "tgi_request_input_length": TGI_INPUT},
    ),
    "prompt_computed": Histogram(
        "Prompt tokens of a request that were not found in the prefix cache.",
        {"vllm:request_prefill_kv_computed_tokens": VLLM_LENGTH},
    ),
    "generation_length": Histogram(
        "Tokens generated for a request.",
        {"vllm:request_generation_tokens": VLLM_LENGTH, "tgi_request_generated_tokens": TGI_LENGTH},
    ),
    "longest_choice": Histogram(
        "Tokens of the longest of a request's sequences.", {"vllm:request_max_num_generation_tokens": VLLM_LENGTH}
    ),
    "max_tokens": Histogram(
        "Limit of tokens to generate that a request gave.",
        {"vllm:request_params_max_tokens": VLLM_LENGTH, "tgi_request_max_new_tokens": TGI_LENGTH},
    ),
    "choices": Histogram("Sequences asked for by a request.", {"vllm:request_params_n": CHOICES}),
    "preemptions": Histogram(
        "How often a request was taken out to make room.", {"vllm:request_num_preemptions": PREEMPTIONS}
    ),
}
"""Observed as requests come and go."""

ENGINE_GAUGES = {
    "running": Gauge(
        "Sequences being processed.",
        ("vllm:num_requests_running", "tgi_batch_current_size", "llamacpp:requests_processing"),
    ),
    "waiting": Gauge(
        "Sequences waiting.", ("vllm:num_requests_waiting", "tgi_queue_size", "llamacpp:requests_deferred")
    ),
    "waiting_by_reason": Gauge(
        "Sequences waiting for room (capacity), or for another to compute what both need (deferred).",
        ("vllm:num_requests_waiting_by_reason",),
        label="reason",
    ),
    "cache_usage": Gauge("Share of the KV cache in use, 1 is full.", ("vllm:kv_cache_usage_perc",)),
    "cache_tokens_used": Gauge("Tokens in the KV cache's used blocks.", ("tgi_batch_current_max_tokens",)),
    "cache_tokens": Gauge("Tokens that the KV cache holds.", ("tgi_batch_max_total_tokens",)),
    "sleep_state": Gauge("1 for the state it is in: always awake.", ("vllm:engine_sleep_state",), label="sleep_state"),
}
ENGINE_COUNTERS = {
    "queried_tokens": Counter("Prompt tokens looked up in the prefix cache.", ("vllm:prefix_cache_queries_total",)),
    "cached_tokens": Counter("Prompt tokens found in the prefix cache.", ("vllm:prefix_cache_hits_total",)),
    "preemptions": Counter("Sequences taken out to make room.", ("vllm:num_preemptions_total",)),
    "steps": Counter("Engine steps.", ("llamacpp:n_decode_total",)),
}
"""Read from the engine's own statistics at each scrape."""

RECENT_GAUGES = {
    "prompt_rate": Gauge(
        "Prompt tokens per second spent on prompts, since the last scrape.", ("llamacpp:prompt_tokens_seconds",)
    ),
    "generation_rate": Gauge(
        "Tokens generated per second spent on generation, since the last scrape.",
        ("llamacpp:predicted_tokens_seconds",),
    ),
    "busy": Gauge("Sequences of a step, on average.", ("llamacpp:n_busy_slots_per_decode",)),
}
"""Quotients that llama.cpp makes of counters."""


def _by_method(phase: str) -> dict[str | None, str]:
    return {method: f"{phase} {method}" for method in METHODS}


STEP_HISTOGRAMS = [
    StepHistogram(
        "Tokens of a step: of prompts that were completed, and generated.",
        {"vllm:iteration_tokens_total": TOKENS},
        {None: "tokens"},
    ),
    StepHistogram(
        "Sequences that began in a step, of steps in which any did.",
        {"tgi_batch_next_size": range(1, MOST_ADMITTED + 1)},
        {None: "admitted"},
    ),
    StepHistogram(
        "Time of a step, in seconds.", {"tgi_batch_inference_duration": DURATIONS}, _by_method("step"), "method"
    ),
    StepHistogram(
        "Time to compute and sample a step, in seconds.",
        {"tgi_batch_forward_duration": DURATIONS},
        _by_method("run"),
        "method",
    ),
    StepHistogram(
        "Time to take in the tokens of a step, in seconds.",
        {"tgi_batch_decode_duration": DURATIONS},
        _by_method("commit"),
        "method",
    ),
    StepHistogram(
        "Time to choose what a step computes, in seconds.",
        {"tgi_batch_filter_duration": DURATIONS},
        _by_method("schedule"),
        "method",
    ),
    StepHistogram(
        "Time to choose what a step computes when new sequences join others, in seconds.",
        {"tgi_batch_concat_duration": DURATIONS},
        {"decode": "join"},
        "method",
    ),
]
_STEPS = {method: f"step {method}" for method in METHODS}
_FAILED = {method: f"failed {method}" for method in METHODS}
STEP_COUNTERS = [
    StepCounter("Steps.", "tgi_batch_inference_count", "method", _STEPS),
    StepCounter("Steps that did not fail.", "tgi_batch_inference_success", "method", _STEPS, _FAILED),
    StepCounter("Steps that failed.", "tgi_batch_inference_failure", "method", _FAILED),
    StepCounter("Steps in which new sequences joined others.", "tgi_batch_concat", "reason", {"chunking": "join"}),
]
"""Read from the engine's histograms."""

HTTP = {
    "requests": HttpMetric("HTTP requests.", "http_requests_total", ("method", "status", "handler")),
    "seconds": HttpMetric(
        "Time of HTTP requests, in seconds.", "http_request_duration_seconds", ("method", "handler"), HTTP_COARSE
    ),
    "fine_seconds": HttpMetric(
        "Time of HTTP requests, in seconds.", "http_request_duration_highr_seconds", (), HTTP_FINE
    ),
    "request_bytes": HttpMetric("Bodies of HTTP requests, in bytes.", "http_request_size_bytes", ("handler",)),
    "response_bytes": HttpMetric(
        "Bodies of HTTP responses that were not streamed, in bytes.", "http_response_size_bytes", ("handler",)
    ),
}
CACHE_CONFIG = Gauge("How the KV cache is set up: 1.", ("vllm:cache_config_info",))
CACHE_LABELS = (
    *("block_size", "cache_dtype", "enable_prefix_caching", "gpu_memory_utilization", "kv_cache_memory_bytes"),
    *("num_gpu_blocks", "num_gpu_blocks_override", "num_cpu_blocks"),
    *("kv_cache_size_tokens", "kv_cache_max_concurrency", "cache_bytes"),
)

PROCESS = ("process_…", "python_…")
"""What prometheus_client knows of the process with the API."""

ABSENT = {
    "vllm:spec_decode_…": "nothing is drafted",
    "llamacpp:spec_decode_…": "nothing is drafted",
    "tgi_request_skipped_tokens": "nothing is drafted",
    "vllm:lora_requests_info": "models have no adapters",
    "vllm:external_prefix_cache_…": "the KV cache is nowhere else",
    "vllm:num_requests_kv_fetch_by_stage": "the KV cache is nowhere else",
    "vllm:nixl_…": "the KV cache is nowhere else",
    "vllm:kv_offload_…": "the KV cache is nowhere else",
    "vllm:mm_cache_…": "prompts are text only",
    "vllm:tool_call_parser_invocations_total": "no tools are called",
    "vllm:corrupted_requests_total": "a sequence whose logits are not finite ends as an error",
    "vllm:estimated_…": "flops and bytes are not estimated",
    "vllm:kv_block_…": "blocks are not followed",
    "vllm:websocket_…": "there are no websockets",
    "vllm:sleep_mode_…": "the engine does not sleep",
    "tgi_batch_total_tokens": "TGI itself never has it",
}
"""Series of the peers that there cannot be here, and why."""


def common_labels(name: str) -> tuple[str, ...]:
    """Labels of a series that are the same for all of its values."""
    if not name.startswith("vllm:"):
        return ()
    return ("model_name",) if name == "vllm:admission_rejections_total" else ("model_name", "engine")
