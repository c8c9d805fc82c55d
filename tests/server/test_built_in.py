"""The built-in model behind a port: what a newcomer sees first."""

from __future__ import annotations

import pytest
from huggingface_hub import InferenceClient

from tests.server.conftest import running
from tests.server.wire import events, get, post
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM


@pytest.fixture(scope="module")
def url():
    with running(AsyncLLM(EngineArgs())) as address:
        yield address


def test_the_example(url):
    r = InferenceClient(model=url).text_generation(
        "Tell me a story", max_new_tokens=100, temperature=0.8, top_p=0.95, repetition_penalty=1.1, details=True
    )
    assert r.generated_text.startswith("Tell me a story")
    assert 1 <= r.details.generated_tokens == len(r.details.tokens) <= 100


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_is_the_whole(url, path):
    asked = {"messages": [{"role": "user", "content": "Who comes?"}]} if "chat" in path else {"prompt": "ROMEO:\n"}
    body = asked | {"max_tokens": 40, "seed": 5, "temperature": 0.8}
    [whole] = post(url, path, body).json()["choices"]
    *chunks, _ = events(post(url, path, body | {"stream": True}))
    choices = [chunk["choices"][0] for chunk in chunks]
    text = "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)
    assert text == (whole["message"]["content"] if "message" in whole else whole["text"])
    assert text.strip() and choices[-1]["finish_reason"] == whole["finish_reason"]


def test_its_name(url):
    assert get(url, "/v1/models").json()["data"][0]["id"] == "shakespeare"
    assert get(url, "/web/facts.json").json()["model"] == "shakespeare"
