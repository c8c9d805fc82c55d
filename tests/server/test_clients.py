"""The clients that people use, unchanged."""

from __future__ import annotations

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, HfHubHTTPError, OverloadedError, ValidationError

from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM

MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT_TOKENS = len("user: hi\nassistant: ")


@pytest.fixture
def hub(url):
    return InferenceClient(model=url)


def test_hub_text_generation(hub, url):
    """The example of the README."""
    options = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1}
    r = hub.text_generation("Tell me a story", max_new_tokens=100, details=True, **options)
    assert r.generated_text == "Tell me a story" + ANSWER
    assert r.details.finish_reason == "eos_token" and r.details.generated_tokens == len(TOKENS)
    assert [token.id for token in r.details.tokens] == TOKENS
    assert r.details.seed is not None and r.details.prefill == []
    pieces = list(hub.text_generation("Tell me a story", max_new_tokens=100, stream=True, **options))
    assert "".join(pieces) == ANSWER + "</s>"
    hub = InferenceClient(base_url=f"{url}/v1")
    plain = hub.text_generation("Tell me a story", max_new_tokens=9, return_full_text=False)
    assert plain == ANSWER[:9]


def test_hub_stream_with_details(hub):
    got = list(hub.text_generation("hi", max_new_tokens=4, stream=True, details=True, return_full_text=False))
    assert "".join(one.token.text for one in got) == got[-1].generated_text == ANSWER[:4]
    assert (got[-1].details.finish_reason, got[-1].details.generated_tokens) == ("length", 4)
    assert all(one.details is None for one in got[:-1])


def test_hub_errors(hub, serve):
    with pytest.raises(ValidationError, match="`top_p` must be > 0"):
        hub.text_generation("hi", top_p=1.0)
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        list(hub.text_generation("hi", temperature=0.0, stream=True))
    with pytest.raises(OverloadedError):
        InferenceClient(model=serve(FakeLLM(overloaded=True))).text_generation("hi")
    failing = InferenceClient(model=serve(FakeLLM(fail_after=2)))
    with pytest.raises(GenerationError):
        failing.text_generation("hi")
    with pytest.raises(GenerationError):
        list(failing.text_generation("hi", stream=True))


def test_hub_chat(hub, url):
    got = hub.chat_completion(MESSAGES, max_tokens=100, logprobs=True, top_logprobs=2)
    assert got.choices[0].message.content == ANSWER and got.choices[0].finish_reason == "stop"
    assert got.usage.prompt_tokens == PROMPT_TOKENS
    chunks = hub.chat_completion(MESSAGES, max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    named = InferenceClient(base_url=url + "/v1").chat.completions.create(MESSAGES, model="fake", max_tokens=2)
    assert named.choices[0].message.content == ANSWER[:2]
    with pytest.raises(HfHubHTTPError, match="does not exist"):
        hub.chat_completion(MESSAGES, model="org/other")


def test_hub_keys(serve):
    url = serve(FakeLLM(), api_keys=("k1",))
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(model=url, token="k2").text_generation("hi")
    assert InferenceClient(model=url, token="k1").text_generation("hi", max_new_tokens=1, return_full_text=False)
