"""What llama.cpp's server says of itself, and what of it is not here."""

from __future__ import annotations

import pytest

from tests.server.fake_llm import TEMPLATE, FakeLLM
from tests.server.wire import client, get, post

PROPS = [
    *("default_generation_settings", "total_slots", "model_alias", "model_ftype", "model_path", "modalities"),
    *("media_marker", "endpoint_slots", "endpoint_props", "endpoint_metrics", "ui", "ui_settings", "chat_template"),
    *("chat_template_caps", "bos_token", "eos_token", "build_info", "is_sleeping", "cors_proxy_enabled"),
]


def test_props(url):
    got = get(url, "/props").json()
    assert list(got) == PROPS
    settings = got["default_generation_settings"]
    assert settings["n_ctx"] == 256 and settings["params"]["seed"] == 2**32 - 1
    assert settings["params"]["samplers"][:2] == ["penalties", "dry"]
    assert not {"stop", "grammar", "logit_bias"} & settings["params"].keys()
    expected = {"total_slots": 8, "model_alias": "fake", "chat_template": TEMPLATE, "endpoint_props": False}
    expected |= {"bos_token": "<s>", "eos_token": "</s>", "is_sleeping": False}
    assert {name: got[name] for name in expected} == expected
    assert got["build_info"].startswith("b") and got["modalities"] == {"vision": False, "video": False, "audio": False}
    assert got["chat_template_caps"]["supports_system_role"]


def refused(response, status=501, kind="not_supported_error"):
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (status, status, kind)
    return error["message"]


def test_changing_props(url, serve):
    assert "Start it with `--props`" in refused(post(url, "/props", {}))
    assert post(serve(FakeLLM(), props_endpoint=True), "/props", {}).json() == {"success": True}


def test_adapters(url):
    assert get(url, "/lora-adapters").json() == []
    assert post(url, "/lora-adapters", []).json() == {"success": True}
    for wrong in ({}, [{"id": 0, "scale": 1.0}]):
        refused(post(url, "/lora-adapters", wrong), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        *(("POST", path, "embeddings: models only generate text here") for path in ("/embedding", "/embeddings")),
        *(("POST", path, "reranking: models only generate text here") for path in ("/reranking", "/v1/reranking")),
        ("POST", "/audio/transcriptions", "audio"),
        *(("POST", path, "serves one") for path in ("/models", "/models/load", "/models/unload")),
        ("GET", "/models/sse", "serves one"),
        ("DELETE", "/models?model=x", "serves one"),
        ("GET", "/v1/stream?conv_id=x", "resuming"),
        ("DELETE", "/v1/stream?conv_id=x", "resuming"),
        ("POST", "/v1/streams/lookup", "resuming"),
        ("GET", "/tools", "tools"),
        ("POST", "/tools", "tools"),
        ("GET", "/cors-proxy?url=x", "proxy"),
    ],
)
def test_what_is_not_here(url, method, path, message):
    assert message in refused(client.request(method, url + path))


def test_what_is_not_here_and_not_vllm_s_either(serve):
    url = serve(FakeLLM(), dialect="llamacpp")
    for path in ("/v1/embeddings", "/rerank", "/v1/rerank", "/v1/audio/transcriptions"):
        assert "not support" in refused(post(url, path, {}))


def test_health_and_keys(serve):
    url = serve(FakeLLM(), api_keys=("k",))
    for path in ("/health", "/v1/health"):
        assert get(url, path).json() == {"status": "ok"}
    for path in ("/props", "/slots", "/models", "/lora-adapters"):
        response = get(url, path)
        expected = {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
        assert (response.status_code, response.json()) == (401, expected)
        for headers in ({"Authorization": "Bearer k"}, {"X-Api-Key": "k"}):
            assert get(url, path, headers=headers).status_code == 200
