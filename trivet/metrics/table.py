"""The table of metrics: each fact once, with the names that dashboards for vLLM, TGI and llama.cpp know it by.

Series called `vllm:…` carry the labels `model_name` and `engine`. Counters of TGI have no `_total` suffix; its series
of things that have not happened, or do not happen here, are left out, as it does itself.
"""

from __future__ import annotations

from dataclasses import dataclass

LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80, 160, 640, 2560),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
TGI_DURATION = tuple(0.00015 * 1.5**k for k in range(35))
TGI_INPUT = "tgi input"
"""100 equal steps up to the longest prompt."""
TGI_LENGTH = "tgi length"
"""100 equal steps up to the context length."""
VLLM_LENGTH = "vllm length"
"""1, 2, 5, 10, … up to the context length."""
CHOICES = (1, 2, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Counter:
    """`names` are as exported; `label` tells kinds of the event apart."""

    help: str
    names: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    help: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Exported name -> upper bounds of its buckets, or the name of a rule that makes them.

    method: the label of that name of its `tgi_batch_…` series, which several rows may share.
    """

    help: str
    names: dict[str, tuple[float, ...] | str]
    method: str | None = None


COUNTERS = {
    "requests": Counter("Requests received.", ("tgi_request_count",)),
    "finished": Counter("Sequences ended.", ("vllm:request_success_total",), label="finished_reason"),
    "success": Counter("Requests finished.", ("tgi_request_success",)),
    "failure": Counter("Requests failed.", ("tgi_request_failure",), label="err"),
    "prompt_tokens": Counter("Prompt tokens processed.", ("vllm:prompt_tokens_total",)),
    "prompt_tokens_computed": Counter(
        "Prompt tokens processed, without those found in the prefix cache.", ("llamacpp:prompt_tokens_total",)
    ),
    "prompt_tokens_cached": Counter(
        "Prompt tokens found in the prefix cache.",
        ("vllm:prompt_tokens_cached_total", "llamacpp:prompt_tokens_cached_total"),
    ),
    "generation_tokens": Counter(
        "Tokens generated.", ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
    ),
    "prompt_seconds": Counter("Time spent on prompts, in seconds.", ("llamacpp:prompt_seconds_total",)),
    "generation_seconds": Counter(
        "Time spent on generation, in seconds.", ("llamacpp:tokens_predicted_seconds_total",)
    ),
    "longest": Counter("Most tokens that a sequence has had.", ("llamacpp:n_tokens_max",)),
    "draft_tokens": Counter("Tokens drafted (no model does).", ("llamacpp:spec_decode_num_draft_tokens_total",)),
    "accepted_tokens": Counter(
        "Drafted tokens accepted (no model drafts).", ("llamacpp:spec_decode_num_accepted_tokens_total",)
    ),
    "drafts": Counter("Drafts made (no model does).", ("llamacpp:spec_decode_num_drafts_total",)),
}
"""Counted as requests come and go."""

HISTOGRAMS = {
    "first_token": Histogram(
        "Time from arrival to the first token, in seconds.", {"vllm:time_to_first_token_seconds": FIRST_TOKEN}
    ),
    "inter_token": Histogram(
        "Time between tokens of a sequence, in seconds.",
        {"vllm:inter_token_latency_seconds": PER_TOKEN, "tgi_batch_inference_duration": TGI_DURATION},
        method="decode",
    ),
    "time_per_output_token": Histogram(
        "A request's mean time per token after the first, in seconds.",
        {"vllm:request_time_per_output_token_seconds": PER_TOKEN},
    ),
    "mean_time_per_token": Histogram(
        "A request's inference time per token, in seconds.",
        {"tgi_request_mean_time_per_token_duration": TGI_DURATION},
    ),
    "latency": Histogram(
        "Time from arrival to the last token, in seconds.",
        {"vllm:e2e_request_latency_seconds": LATENCY, "tgi_request_duration": TGI_DURATION},
    ),
    "validation": Histogram(
        "Time to validate and tokenise a request of TGI's, in seconds.",
        {"tgi_request_validation_duration": TGI_DURATION},
    ),
    "queue": Histogram(
        "Time from queueing to the first scheduling, in seconds.",
        {"vllm:request_queue_time_seconds": LATENCY, "tgi_request_queue_duration": TGI_DURATION},
    ),
    "prefill": Histogram(
        "Time from scheduling to the first token, in seconds.",
        {"vllm:request_prefill_time_seconds": LATENCY, "tgi_batch_inference_duration": TGI_DURATION},
        method="prefill",
    ),
    "decode": Histogram(
        "Time from the first to the last token, in seconds.", {"vllm:request_decode_time_seconds": LATENCY}
    ),
    "inference": Histogram(
        "Time from scheduling to the last token, in seconds.",
        {"vllm:request_inference_time_seconds": LATENCY, "tgi_request_inference_duration": TGI_DURATION},
    ),
    "prompt_length": Histogram(
        "Prompt tokens of a request.",
        {"vllm:request_prompt_tokens": VLLM_LENGTH, "tgi_request_input_length": TGI_INPUT},
    ),
    "generation_length": Histogram(
        "Tokens generated for a request.",
        {"vllm:request_generation_tokens": VLLM_LENGTH, "tgi_request_generated_tokens": TGI_LENGTH},
    ),
    "max_tokens": Histogram(
        "Limit of tokens to generate that a request gave.",
        {"vllm:request_params_max_tokens": VLLM_LENGTH, "tgi_request_max_new_tokens": TGI_LENGTH},
    ),
    "choices": Histogram("Sequences asked for by a request.", {"vllm:request_params_n": CHOICES}),
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
    "cache_usage": Gauge("Share of the KV cache in use, 1 is full.", ("vllm:kv_cache_usage_perc",)),
    "cache_tokens_used": Gauge("Tokens in the KV cache's used blocks.", ("tgi_batch_current_max_tokens",)),
    "cache_tokens": Gauge("Tokens that the KV cache holds.", ("tgi_batch_max_total_tokens",)),
}
RATES = {
    "prompt_rate": Gauge(
        "Prompt tokens processed per second, in requests finished since the last scrape.",
        ("llamacpp:prompt_tokens_seconds",),
    ),
    "generation_rate": Gauge(
        "Tokens generated per second after the first, in requests finished since the last scrape.",
        ("llamacpp:predicted_tokens_seconds",),
    ),
    "sequences_per_step": Gauge("Sequences in a step, on average.", ("llamacpp:n_busy_slots_per_decode",)),
}
"""Quotients of counts."""
ENGINE_COUNTERS = {
    "queried_tokens": Counter("Prompt tokens looked up in the prefix cache.", ("vllm:prefix_cache_queries_total",)),
    "cached_tokens": Counter("Prompt tokens found in the prefix cache.", ("vllm:prefix_cache_hits_total",)),
    "preemptions": Counter("Sequences taken out to make room.", ("vllm:num_preemptions_total",)),
    "steps": Counter("Engine steps.", ("llamacpp:n_decode_total",)),
}
"""Read from the engine's own statistics at each scrape."""
