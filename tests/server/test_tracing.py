"""Spans of requests, as an exporter gets them."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.server.conftest import running
from tests.server.fake_llm import FakeLLM
from tests.server.wire import chat, get, post
from trivet.cli.launchers import LAUNCHERS
from trivet.cli.serve import read_settings
from trivet.cli.settings import server_options
from trivet.server import tracing
from trivet.server.options import ServerOptions

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def traced(monkeypatch):
    """Run requests against a server; returns its spans, once it has ended."""
    exporter = InMemorySpanExporter()
    endpoints = []
    monkeypatch.setattr(tracing, "make_exporter", lambda endpoint: endpoints.append(endpoint) or exporter)

    def run(llm, requests, **options):
        with running(llm, ServerOptions(otlp_traces_endpoint="http://localhost:4317", **options)) as url:
            requests(url)
        assert endpoints == ["http://localhost:4317"]
        return exporter.get_finished_spans()

    return run


def by_name(spans):
    return {span.name: span for span in spans}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi", "max_tokens": 10, "temperature": 0.5, "top_p": 0.5}),
        ("/v1/chat/completions", chat(max_tokens=10, temperature=0.5, top_p=0.5)),
        ("/", {"inputs": "hi", "parameters": {"max_new_tokens": 10, "temperature": 0.5, "top_p": 0.5}}),
        ("/completion", {"prompt": "hi", "n_predict": 10, "temperature": 0.5, "top_p": 0.5}),
    ],
)
def test_spans(traced, path, body, stream):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r1"}
    found = traced(
        FakeLLM(delay=0.005), lambda url: post(url, path, body | {"stream": stream}, headers=headers), dialect=None
    )
    spans = by_name(found)
    http, request = spans[f"POST {path}"], spans["llm_request"]
    assert sorted({span.name for span in found}) == sorted(
        {http.name, "tokenise", "llm_request", "queue", "prefill", "decode"}
    )
    assert {f"{span.context.trace_id:032x}" for span in found} == {TRACE}
    assert f"{http.parent.span_id:016x}" == PARENT
    assert spans["tokenise"].parent.span_id == request.parent.span_id == http.context.span_id
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent.span_id == request.context.span_id
    assert http.start_time <= request.start_time <= spans["queue"].start_time <= spans["queue"].end_time
    assert spans["queue"].end_time <= spans["prefill"].end_time <= spans["decode"].end_time <= request.end_time
    assert request.end_time <= http.end_time + 10_000_000
    assert spans["decode"].end_time - spans["decode"].start_time > 20_000_000
    assert http.attributes["http.route"] == path and http.attributes["http.response.status_code"] == 200
    told = dict(request.attributes)
    assert told["gen_ai.request.id"].startswith(("r1-", "cmpl-r1-", "chatcmpl-r1-"))
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.n"]) == (10, 1)
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.top_p"]) == (0.5, 0.5)
    assert told["gen_ai.response.model"] == "fake"
    assert told["gen_ai.usage.completion_tokens"] == 10 and told["gen_ai.usage.prompt_tokens"] >= 2
    latencies = [told[f"gen_ai.latency.time_in_{name}"] for name in ("queue", "model_prefill", "model_decode")]
    assert 0.04 < sum(latencies) < told["gen_ai.latency.e2e"] + 0.01
    assert told["gen_ai.latency.time_in_model_inference"] == pytest.approx(sum(latencies[1:]))
    assert 0 < told["gen_ai.latency.time_to_first_token"] < told["gen_ai.latency.e2e"]
    assert not any("Lily" in str(value) for span in found for value in span.attributes.values())


def test_unsampled_parents_and_probes_leave_no_spans(traced):
    def requests(url):
        post(url, "/v1/completions", {"prompt": "hi"}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        get(url, "/health")
        get(url, "/metrics")

    assert traced(FakeLLM(), requests) == ()


def test_failures(traced):
    def requests(url):
        post(url, "/v1/completions", {"prompt": "hi"})
        post(url, "/v1/completions", {"prompt": "hi", "temperature": -1}, headers={"traceparent": "nonsense"})
        get(url, "/nothing")

    spans = traced(FakeLLM(fail_after=2), requests)
    failed, refused, nothing = [span for span in spans if span.parent is None]
    assert not failed.status.is_ok and refused.status.is_ok
    assert failed.attributes["http.response.status_code"] == 500
    assert refused.attributes["http.response.status_code"] == 400
    assert nothing.name == "GET none"
    [request] = [span for span in spans if span.name == "llm_request"]
    assert not request.status.is_ok and request.attributes["gen_ai.response.finish_reasons"] == ("error",)


def test_several_prompts(traced):
    spans = traced(FakeLLM(), lambda url: post(url, "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2}))
    names = [span.name for span in spans]
    assert names.count("llm_request") == names.count("tokenise") == names.count("decode") == 2
    assert len({span.context.trace_id for span in spans}) == 1


@pytest.mark.parametrize(
    ("launcher", "flags"),
    [
        ("serve", ["--otlp-traces-endpoint", "http://x:1"]),
        ("serve", ["--otlp-endpoint", "http://x:1"]),
        ("vllm", ["--otlp-traces-endpoint", "http://x:1"]),
        ("tgi", ["--otlp-endpoint", "http://x:1", "--otlp-service-name", "n"]),
    ],
)
def test_flags(launcher, flags):
    options = server_options(read_settings(LAUNCHERS[launcher], flags))
    assert options.otlp_traces_endpoint == "http://x:1"
    assert options.otlp_service_name == ("n" if launcher == "tgi" else None)


def test_the_name_of_the_service():
    assert server_options(read_settings(LAUNCHERS["tgi"], [])).otlp_service_name == "text-generation-inference.router"


@pytest.mark.parametrize("missing", ["opentelemetry.exporter", "opentelemetry.exporter.otlp"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_without_the_extra(monkeypatch, missing, protocol):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv(tracing.PROTOCOL, protocol)
    with pytest.raises(tracing.TracingError, match=r"pip install 'trivet\[otel\]'"):
        tracing.check_tracing(ServerOptions(otlp_traces_endpoint="http://x:1"))


def test_an_unknown_protocol(monkeypatch):
    monkeypatch.setenv(tracing.PROTOCOL, "carrier-pigeon")
    with pytest.raises(tracing.TracingError, match="must be grpc or http/protobuf, got 'carrier-pigeon'"):
        tracing.check_tracing(ServerOptions(otlp_traces_endpoint="http://x:1"))
