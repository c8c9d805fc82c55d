from __future__ import annotations

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.openai import golden
from tests.server.wire import chat, post

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
ONLY_CONTINUOUS = {"stream": True, "stream_options": {"continuous_usage_stats": True}}


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (CHAT, {"max_tokens": 3}, golden.CHAT),
        (CHAT, {"max_tokens": 2, "stream": True}, golden.CHAT_STREAM),
        (CHAT, {"max_tokens": 2, **USAGE}, golden.CHAT_STREAM_USAGE),
        (CHAT, {"max_tokens": 2, **CONTINUOUS}, golden.CHAT_STREAM_CONTINUOUS),
        (CHAT, {"max_tokens": 2, **ONLY_CONTINUOUS}, golden.CHAT_STREAM),
        (TEXT, {"max_tokens": 3}, golden.COMPLETION),
        (TEXT, {"max_tokens": 2, "stream": True}, golden.COMPLETION_STREAM),
        (TEXT, {"max_tokens": 2, **USAGE}, golden.COMPLETION_STREAM_USAGE),
        (TEXT, {"max_tokens": 2, **CONTINUOUS}, golden.COMPLETION_STREAM_CONTINUOUS),
        (TEXT, {"max_tokens": 2, **ONLY_CONTINUOUS}, golden.COMPLETION_STREAM),
        (TEXT, {"model": "x"}, golden.ERROR),
    ],
)
def test_golden(url, path, fields, expected):
    asked = chat(**fields) if path == CHAT else {"model": "fake", "prompt": "hi", **fields}
    assert golden.plain(post(url, path, asked).text) == expected


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_cached_tokens(serve, path):
    url = serve(FakeLLM(), prompt_tokens_details=True)
    body = chat(max_tokens=2) if path == CHAT else {"prompt": "x" * 20, "max_tokens": 2}
    assert golden.CACHED in post(url, path, body).text
    assert golden.CACHED_IN_STREAM in post(url, path, body | USAGE).text


def test_usage_by_force(serve):
    url = serve(FakeLLM(), force_include_usage=True)
    for path, asked, expected in [
        (CHAT, chat(max_tokens=2), golden.CHAT_STREAM_CONTINUOUS),
        (TEXT, {"model": "fake", "prompt": "hi", "max_tokens": 2}, golden.COMPLETION_STREAM_CONTINUOUS),
    ]:
        assert golden.plain(post(url, path, asked | {"stream": True}).text) == expected
        assert post(url, path, asked | {"stream_options": {"include_usage": True}}).status_code == 400


def test_tokens_as_ids_of_all_requests(serve):
    url, other = serve(FakeLLM(), tokens_as_ids=True), serve(FakeLLM())
    for path, asked in [
        (CHAT, chat(max_tokens=2, logprobs=True, top_logprobs=1)),
        (TEXT, {"prompt": "hi", "max_tokens": 2, "logprobs": 1}),
    ]:
        answers = post(url, path, asked), post(other, path, asked | {"return_tokens_as_token_ids": True})
        here, there = (answer.json()["choices"] for answer in answers)
        assert here == there and '"token_id:' in answers[0].text


def test_request_ids(url):
    """The header's goes before the body's."""
    response = post(url, CHAT, chat(max_tokens=1, request_id="mine"), headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1" and response.json()["id"] == "chatcmpl-abc-1"
    for bad in ["a b", "x" * 129]:
        response = post(url, CHAT, chat(max_tokens=1), headers={"X-Request-Id": bad})
        assert len(response.headers["x-request-id"]) == 32
    assert post(url, CHAT, chat(max_tokens=1, request_id="mine")).json()["id"] == "chatcmpl-mine"


@pytest.mark.parametrize(("header", "body", "expected"), [("-3", 5, -3), ("x", 5, 5), (None, 5, 5), (None, None, 0)])
def test_priority(url, llm, header, body, expected):
    headers = {} if header is None else {"X-Vllm-Priority": header}
    post(url, TEXT, {"prompt": "hi", "max_tokens": 1, "priority": body}, headers=headers)
    assert llm.requests[0].priority == expected


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("text", "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0"),
        ("JSON", 'JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}'),
        ("xml", None),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_load_in_the_header(url, path, layout, told):
    body = chat(max_tokens=1) if path == CHAT else {"prompt": "hi", "max_tokens": 1}
    response = post(url, path, body, headers={"endpoint-load-metrics-format": layout})
    assert response.headers.get("endpoint-load-metrics") == told
