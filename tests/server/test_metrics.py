from __future__ import annotations

import math
import re
from collections import defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fake_llm import TOKENS, FakeLLM
from tests.server.wire import chat, events, get, post
from trivet.engine.request import EngineStats
from trivet.metrics import table
from trivet.server.activity import summary

PROMPT = len("<hi")
G = len(TOKENS)


def scrape(url):
    """Sample name, with its labels but the usual ones if it has any -> value."""
    response = get(url, "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(response.text))
    samples: dict[object, float] = {}
    # The library's parser renames counters that do not end in _total.
    for name, written, value in re.findall(r"^([\w:]+)(?:{(.*)})? (\S+)$", response.text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', written))
        if name.startswith("vllm:"):
            assert (labels.pop("model_name"), labels.pop("engine")) == ("fake", "0")
        samples[(name, *sorted(labels.values())) if labels else name] = float(value)
    return samples


@pytest.fixture
def scraped(serve):
    """What three requests leave behind."""
    url = serve(FakeLLM())
    for _ in range(3):
        post(url, "/v1/completions", {"prompt": "hi", "max_tokens": 10})
    return scrape(url)


def test_exact_sums(scraped):
    """vLLM's: R requests of P prompt and G generated tokens."""
    assert scraped["vllm:prompt_tokens_total"] == 3 * PROMPT
    assert scraped["vllm:generation_tokens_total"] == scraped["llamacpp:tokens_predicted_total"] == 30
    assert scraped["vllm:inter_token_latency_seconds_count"] == 27
    assert scraped["vllm:time_to_first_token_seconds_count"] == 3
    assert scraped["vllm:request_success_total", "length"] == scraped["tgi_request_success"] == 3
    assert scraped["vllm:request_prompt_tokens_sum"] == scraped["tgi_request_input_length_sum"] == 9
    assert scraped["vllm:request_generation_tokens_sum"] == 30
    assert scraped["vllm:request_params_max_tokens_sum"] == scraped["tgi_request_max_new_tokens_sum"] == 30
    for name in ("vllm:e2e_request_latency_seconds", "tgi_request_duration", "tgi_request_queue_duration"):
        assert scraped[f"{name}_count"] == 3
    assert scraped["tgi_request_count"] == 3
    methods = [scraped["tgi_batch_inference_duration_count", method] for method in ("prefill", "decode")]
    assert methods == [3, 27]
    assert scraped["vllm:num_requests_running"] == scraped["tgi_queue_size"] == 0
    assert scraped["vllm:kv_cache_usage_perc"] == 0 and scraped["tgi_batch_max_total_tokens"] == 1024


def test_every_row_is_exported(scraped):
    names = {key if isinstance(key, str) else key[0] for key in scraped}
    rows = [*table.COUNTERS.values(), *table.ENGINE_COUNTERS.values(), *table.ENGINE_GAUGES.values()]
    missing = {name for row in rows for name in row.names} - names
    assert missing == {"tgi_request_failure"}
    for histogram in table.HISTOGRAMS.values():
        assert {f"{name}_bucket" for name in histogram.names} <= names
    assert "process_resident_memory_bytes" in names


def test_buckets(serve):
    bounds = defaultdict(list)
    for key in scrape(serve(FakeLLM())):
        if isinstance(key, tuple) and key[0].endswith("_bucket"):
            bounds[key[0].removesuffix("_bucket")].append(float(key[1]))
    assert bounds["vllm:inter_token_latency_seconds"] == [*table.PER_TOKEN, math.inf]
    assert len(bounds["tgi_request_duration"]) == 36
    assert bounds["tgi_request_duration"][-2] == pytest.approx(145.611, rel=1e-4)
    assert bounds["vllm:request_prompt_tokens"] == [1, 2, 5, 10, 20, 50, 100, 200, math.inf]
    assert bounds["tgi_request_input_length"][:2] == pytest.approx([2.55, 5.10])
    assert bounds["tgi_request_generated_tokens"][:2] == pytest.approx([2.56, 5.12])


def test_types(url):
    text = get(url, "/metrics").text
    for line in (
        "# TYPE tgi_request_count counter",
        "# TYPE vllm:prompt_tokens_total counter",
        "# TYPE vllm:num_requests_running gauge",
        "# TYPE tgi_request_duration histogram",
    ):
        assert line in text.splitlines()
    assert "untyped" not in text


def test_failures(serve):
    def failures(url):
        return {key[1]: value for key, value in scrape(url).items() if key[0] == "tgi_request_failure"}

    url = serve(FakeLLM())
    post(url, "/v1/completions", {"prompt": "x" * 300})
    post(url, "/v1/completions", {"prompt": "hi", "temperature": -1})
    post(url, "/generate", {"inputs": ""})
    events(post(url, "/generate_stream", {"inputs": ""}))
    post(url, "/completion", {"prompt": [300]})
    assert failures(url) == {"validation": 5}
    assert scrape(url)["tgi_request_count"] == 5
    url = serve(FakeLLM(overloaded=True))
    post(url, "/v1/completions", {"prompt": "hi"})
    assert failures(url) == {"overloaded": 1}
    url = serve(FakeLLM(fail_after=2))
    post(url, "/completion", {"prompt": "hi", "stream": True})
    assert failures(url) == {"generation": 1}
    samples = scrape(url)
    assert samples["vllm:request_success_total", "error"] == 1
    assert samples["vllm:generation_tokens_total"] == 2


def test_a_chat_is_counted_once(serve):
    url = serve(FakeLLM(), dialect="tgi")
    post(url, "/v1/chat/completions", chat())
    post(url, "/v1/chat/completions", chat(messages=[]))
    samples = scrape(url)
    assert (samples["tgi_request_count"], samples["tgi_request_failure", "template"]) == (2, 1)
    assert samples["tgi_request_validation_duration_count"] == samples["tgi_request_success"] == 1


def test_sequences_and_cached_tokens(serve):
    url = serve(FakeLLM())
    post(url, "/v1/chat/completions", chat(n=2, max_tokens=5))
    samples = scrape(url)
    prompt = len("user: hi\nassistant: ")
    assert samples["vllm:request_success_total", "length"] == 2
    assert samples["tgi_request_success"] == samples["vllm:request_params_n_count"] == 1
    assert samples["vllm:generation_tokens_total"] == 10
    assert samples["vllm:prompt_tokens_total"] == prompt
    assert samples["llamacpp:prompt_tokens_total"] == prompt - prompt // 16
    assert samples["vllm:prompt_tokens_cached_total"] == prompt // 16


def test_summary():
    before = EngineStats(steps=1, prompt_tokens=10, generated_tokens=5, queried_tokens=10)
    now = EngineStats(
        running=2,
        blocks_total=10,
        blocks_used=5,
        prompt_tokens=110,
        generated_tokens=25,
        cached_tokens=5,
        queried_tokens=20,
    )
    assert summary(before, now, 10.0) == (
        "running 2, waiting 0, prompt 10.0 tok/s, generation 2.0 tok/s, KV cache 50.0% used, prefix cache hits 50.0%"
    )
