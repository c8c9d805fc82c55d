from __future__ import annotations

import asyncio
import math
import re
import time
from collections import defaultdict

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.fake import Options
from tests.server.fake_llm import TOKENS, FakeLLM
from tests.server.test_engine import ask, engine, prompt
from tests.server.wire import chat, client, events, get, post
from trivet.engine.request import EngineStats
from trivet.metrics import table
from trivet.metrics.documentation import series
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
        common = {label: labels.pop(label) for label in table.common_labels(name)}
        assert common in ({}, {"model_name": common.get("model_name")}, common | {"engine": "0"})
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
    assert scraped["vllm:prompt_tokens_by_source_total", "local_compute"] == 9
    assert scraped["vllm:request_prefill_kv_computed_tokens_sum"] == 9
    assert scraped["vllm:request_max_num_generation_tokens_sum"] == 30
    assert scraped["vllm:request_num_preemptions_count"] == 3 and scraped["vllm:request_num_preemptions_sum"] == 0
    assert scraped["llamacpp:n_tokens_max"] == PROMPT + 10
    assert scraped["http_requests_total", "/v1/completions", "2xx", "POST"] == 3
    assert scraped["http_request_duration_seconds_count", "/v1/completions", "POST"] == 3
    assert scraped["http_request_size_bytes_sum", "/v1/completions"] > 0
    assert scraped["http_response_size_bytes_sum", "/v1/completions"] > 0
    assert scraped["vllm:num_requests_running"] == scraped["tgi_queue_size"] == 0
    assert scraped["vllm:kv_cache_usage_perc"] == 0 and scraped["tgi_batch_max_total_tokens"] == 1024


def test_what_is_exported_is_what_is_documented(serve):
    """Names, types, labels and buckets."""
    url = serve(FakeLLM())
    post(url, "/v1/completions", {"prompt": "hi", "max_tokens": 10})
    text = get(url, "/metrics").text
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    labels = defaultdict(set)
    bounds = defaultdict(list)
    for name, written in re.findall(r"^([\w:]+)(?:{(.*)})? \S+$", text, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', written))
        if "le" in found:
            bounds[name.removesuffix("_bucket")].append(float(found["le"]))
        labels[name] = set(found)
    unseen = {"tgi_request_failure", "vllm:admission_rejections_total"}
    assert not unseen & set(labels)
    for one in series():
        if one.name in unseen:
            continue
        assert types[one.name] == one.kind
        for sample in one.samples:
            assert labels[sample] == set(one.labels) | ({"le"} if sample.endswith("_bucket") else set())
        if not isinstance(one.bounds, str) and one.bounds:
            count = len(one.bounds) + 1
            assert bounds[one.name][:count] == pytest.approx([*one.bounds, math.inf])
            assert len(bounds[one.name]) % count == 0
    ours = {name for name in types if not name.startswith(("process_", "python_")) and not name.endswith("_created")}
    assert ours == {one.name for one in series()}
    assert {"process_resident_memory_bytes", "python_info"} <= set(labels)


def test_rules_of_buckets(url):
    bounds = defaultdict(list)
    for key in scrape(url):
        if isinstance(key, tuple) and key[0].endswith("_bucket") and len(key) == 2:
            bounds[key[0].removesuffix("_bucket")].append(float(key[1]))
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
    assert scrape(url)["vllm:admission_rejections_total", "queue_full"] == 1
    assert scrape(url)["http_requests_total", "/v1/completions", "4xx", "POST"] == 1
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
    length = len("user: hi\nassistant: ")
    assert samples["vllm:request_success_total", "length"] == 2
    assert samples["tgi_request_success"] == samples["vllm:request_params_n_count"] == 1
    assert samples["vllm:generation_tokens_total"] == 10
    assert samples["vllm:prompt_tokens_total"] == length
    assert samples["llamacpp:prompt_tokens_total"] == length - length // 16
    assert samples["vllm:prompt_tokens_cached_total"] == length // 16
    assert samples["vllm:prompt_tokens_cached_by_source_total", "device"] == length // 16
    assert samples["vllm:request_max_num_generation_tokens_sum"] == 5


def test_steps(serve):
    """Of a real engine; vLLM's sums for R requests, one at a time, of P prompt and G generated tokens."""
    url = serve(engine("thread", max_num_batched_tokens=8))
    r, p, g = 4, 20, 10
    for variant in range(r):
        post(url, "/v1/completions", ask(p, variant=variant, max_tokens=g))
    samples = scrape(url)
    chunks = 3
    assert samples["vllm:iteration_tokens_total_sum"] == r * (p + g)
    assert samples["vllm:iteration_tokens_total_count"] == samples["llamacpp:n_decode_total"] == r * (g + chunks - 1)
    for name in ("inference", "forward", "decode", "filter"):
        assert samples[f"tgi_batch_{name}_duration_count", "prefill"] == r * chunks
        assert samples[f"tgi_batch_{name}_duration_count", "decode"] == r * (g - 1)
    whole = sum(samples["tgi_batch_inference_duration_sum", method] for method in ("prefill", "decode"))
    parts = [
        samples[f"tgi_batch_{name}_duration_sum", method]
        for name in ("forward", "decode", "filter")
        for method in ("prefill", "decode")
    ]
    assert whole == pytest.approx(sum(parts)) and min(parts) > 0
    assert samples["tgi_batch_next_size_count"] == samples["tgi_batch_next_size_sum"] == r
    assert samples["tgi_batch_next_size_bucket", "1.0"] == samples["tgi_batch_next_size_bucket", "1024.0"] == r
    assert samples["tgi_batch_concat", "chunking"] == 0
    assert samples["llamacpp:n_busy_slots_per_decode"] == 1
    assert samples["vllm:num_requests_waiting_by_reason", "capacity"] == 0
    assert samples["tgi_batch_current_size"] == samples["vllm:num_requests_running"] == 0


def test_failed_and_joined_steps(serve):
    url = serve(engine("thread", Options(fail=96, step_seconds=0.002), max_num_seqs=4))
    post(url, "/v1/completions", {"prompt": [96], "max_tokens": 4})
    prompts = [prompt(9 + 30 * variant, variant) for variant in range(3)]
    bodies = [
        {"prompt": [token % 96 for token in tokens], "max_tokens": 30, "logit_bias": {"96": -100}} for tokens in prompts
    ]

    async def together():
        async with httpx.AsyncClient(timeout=60) as many:
            for response in await asyncio.gather(*(many.post(url + "/v1/completions", json=body) for body in bodies)):
                assert response.status_code == 200

    asyncio.run(together())
    samples = scrape(url)
    counts = {kind: samples[f"tgi_batch_inference_{kind}", "decode"] for kind in ("count", "success", "failure")}
    assert counts["failure"] == 1 and counts["count"] == counts["success"] + 1
    assert samples["llamacpp:n_busy_slots_per_decode"] > 1
    assert samples["tgi_batch_next_size_sum"] == 4


def test_steps_are_counted_across_crashes(serve):
    url = serve(engine("process", Options(crash=96)))
    body = {"prompt": [1, 2, 3], "max_tokens": 5, "ignore_eos": True, "logit_bias": {"96": -100}}
    post(url, "/v1/completions", body)
    assert post(url, "/v1/completions", {"prompt": [96], "max_tokens": 5}).status_code == 500
    post(url, "/v1/completions", body)
    samples = scrape(url)
    assert samples["vllm:iteration_tokens_total_sum"] == 16
    assert samples["vllm:iteration_tokens_total_count"] == samples["llamacpp:n_decode_total"] == 10


def test_rates_since_the_last_scrape(serve):
    url = serve(FakeLLM(delay=0.005))
    post(url, "/v1/completions", {"prompt": "hi", "max_tokens": 10})
    first, second = scrape(url), scrape(url)
    assert 0 < first["llamacpp:predicted_tokens_seconds"] < 300
    assert second["llamacpp:predicted_tokens_seconds"] == second["llamacpp:prompt_tokens_seconds"] == 0


def test_when_the_process_started(url):
    started = get(url, "/metrics").headers["process-start-time-unix"]
    assert abs(time.time() - int(started)) < 3600


def test_what_clients_choose_is_no_label(serve):
    url = serve(FakeLLM())
    for path in ("/no/such/1", "/no/such/2", "/v1/models/fake", "/health"):
        get(url, path)
    for method in ("PROPFIND", "SEARCH"):
        client.request(method, url + "/v1/models")
    counts = {key[1:]: value for key, value in scrape(url).items() if key[0] == "http_requests_total"}
    assert counts == {
        ("/v1/models/{name:path}", "2xx", "GET"): 1,
        ("4xx", "GET", "none"): 2,
        ("/v1/models", "4xx", "other"): 2,
    }


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
