"""vLLM's `metrics` of a request."""

from __future__ import annotations

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import chat, events, post

REQUESTS = [("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", chat())]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_times(serve, path, body):
    url = serve(FakeLLM(delay=0.002), request_metrics=True)
    body = body | {"max_tokens": 10}
    chunks = events(post(url, path, body | {"stream": True, "stream_options": {"include_usage": True}}))
    assert not any("metrics" in chunk for chunk in chunks[:-2])
    for told in (post(url, path, body).json()["metrics"], chunks[-2]["metrics"]):
        assert told["time_to_first_token_ms"] >= 2 and told["queue_time_ms"] >= 0
        assert told["mean_itl_ms"] == pytest.approx(told["generation_time_ms"] / 9) and told["mean_itl_ms"] >= 2
        seconds = (told["time_to_first_token_ms"] + told["generation_time_ms"]) / 1e3
        assert told["tokens_per_second"] == pytest.approx(10 / seconds)
    assert post(url, path, body | {"max_tokens": 1}).json()["metrics"]["mean_itl_ms"] is None
    assert post(url, path, body | {"n": 2}).json()["metrics"] is None
    if "prompt" in body:
        assert post(url, path, body | {"prompt": ["a", "b"]}).json()["metrics"] is None


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_they_are_told_where_asked_for(url, path, body):
    assert post(url, path, body).json()["metrics"] is None
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    assert not any("metrics" in chunk for chunk in events(post(url, path, body | stream))[:-1])
