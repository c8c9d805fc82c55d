"""The `openai` package, unchanged."""

from __future__ import annotations

import openai
import pytest

from tests.server.conftest import running
from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM

MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT_TOKENS = len("user: hi\nassistant: ")


def connect(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(url):
    with connect(url) as client:
        yield client


@pytest.fixture(scope="module")
def real():
    """A client of the built-in model."""
    with running(AsyncLLM(EngineArgs())) as address, connect(address) as client:
        yield client


def test_chat(client):
    got = client.chat.completions.create(model="fake", messages=MESSAGES, stop=["ran"], temperature=0)
    choice = got.choices[0]
    assert choice.message.content == ANSWER.partition("ran")[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "ran")
    assert got.usage.prompt_tokens == PROMPT_TOKENS
    two = client.chat.completions.create(model="fake", messages=MESSAGES, n=2, max_completion_tokens=5)
    assert [c.message.content for c in two.choices] == [ANSWER[:5], ANSWER[1:6]]
    with_logprobs = client.chat.completions.create(
        model="fake", messages=MESSAGES, logprobs=True, top_logprobs=3, max_tokens=2
    )
    entries = with_logprobs.choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["L", "i"]
    assert [len(entry.top_logprobs) for entry in entries] == [3, 3]


def test_chat_stream(client):
    fields = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    chunks = list(client.chat.completions.create(model="fake", messages=MESSAGES, **fields))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == ANSWER
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens == len(TOKENS) and chunks[-1].choices == []


def test_completions(client):
    got = client.completions.create(model="fake", prompt=["hi", "ho"], max_tokens=4, n=2, logprobs=1, temperature=1)
    assert [c.text for c in got.choices] == [ANSWER[:4], ANSWER[1:5]] * 2
    assert got.choices[0].logprobs.tokens == list(ANSWER[:4])
    chunks = list(client.completions.create(model="fake", prompt="hi", stream=True))
    assert "".join(c.choices[0].text for c in chunks) == ANSWER.encode()[:16].decode(errors="ignore")


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").id == "fake"


def test_errors(client, serve):
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="hi", max_tokens=0)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "400")
    cases = [
        ({"overloaded": True}, {}, openai.RateLimitError),
        ({"fail_after": 0}, {}, openai.InternalServerError),
        ({}, {"api_keys": ("k",)}, openai.AuthenticationError),
    ]
    for behaviour, options, error in cases:
        other = openai.OpenAI(base_url=serve(FakeLLM(**behaviour), **options) + "/v1", api_key="x", max_retries=0)
        with pytest.raises(error):
            other.completions.create(model="fake", prompt="hi")
    failing = openai.OpenAI(base_url=serve(FakeLLM(fail_after=3)) + "/v1", api_key="x", max_retries=0)
    stream = failing.chat.completions.create(model="fake", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the engine died"):
        list(stream)


def test_extra_body(client):
    """vLLM's fields."""
    extra = {"min_tokens": 1, "return_token_ids": True, "stop_token_ids": [ord("y")]}
    got = client.chat.completions.create(model="fake", messages=MESSAGES, extra_body=extra, max_tokens=5)
    assert got.choices[0].token_ids == TOKENS[:4] and got.prompt_token_ids is not None
    assert (got.choices[0].finish_reason, got.choices[0].stop_reason) == ("stop", ord("y"))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.2, "seed": 3, "n": 3, "logprobs": True, "top_logprobs": 4},
        {"temperature": 0.7, "seed": 5, "stop": ["\n", "th"], "frequency_penalty": 0.5},
        {"seed": 1, "extra_body": {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2, "return_token_ids": True}},
    ],
    ids=str,
)
def test_a_real_chat(real, options):
    asked = {"model": "shakespeare", "messages": [{"role": "user", "content": "Speak."}], "max_tokens": 24, **options}
    whole = real.chat.completions.create(**asked)
    chunks = list(real.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(part.delta.content for part in own) == choice.message.content
        assert own[-1].finish_reason == choice.finish_reason
        if choice.logprobs:
            assert [entry for part in own[1:] for entry in part.logprobs.content] == choice.logprobs.content


def test_real_completions(real):
    asked = {"model": "shakespeare", "prompt": ["ROMEO:", "JULIET:"], "max_tokens": 16, "logprobs": 2, "seed": 2}
    whole = real.completions.create(**asked, echo=True, n=2)
    parts = [c.choices[0] for c in real.completions.create(**asked, echo=True, n=2, stream=True)]
    for choice in whole.choices:
        own = [part for part in parts if part.index == choice.index]
        assert "".join(part.text for part in own) == choice.text
        assert [v for part in own for v in part.logprobs.token_logprobs] == choice.logprobs.token_logprobs
        assert choice.text.startswith(asked["prompt"][choice.index // 2])
