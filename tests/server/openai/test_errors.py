from __future__ import annotations

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import chat, client, post
from trivet.server.dialects.openai.schemas import ChatBody, CompletionBody
from trivet.server.fields import notes

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BAD, INVALID = "Bad Request", "BadRequestError"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TOOL = {"type": "function", "function": {"name": "f"}}


def completion(**fields):
    return {"model": "fake", "prompt": "hi", **fields}


@pytest.mark.parametrize(
    ("path", "body", "kind", "param", "message"),
    [
        (CHAT, {"model": "fake"}, BAD, None, "1 validation error:\n  Object missing required field `messages`"),
        (CHAT, chat(max_tokens="five"), BAD, "max_tokens", "Expected `int | null`, got `str`"),
        (CHAT, chat(messages="hi"), BAD, "messages", "Expected `array`"),
        (CHAT, chat(seed=2**63), BAD, "seed", "Expected `int` <="),
        (CHAT, chat(logit_bias={"a": 1}), BAD, "logit_bias", "Expected `int`"),
        (CHAT, chat(truncation_side="up"), BAD, "truncation_side", "Invalid enum value 'up'"),
        (CHAT, chat(reasoning_effort="much"), BAD, "reasoning_effort", "Invalid enum value 'much'"),
        (CHAT, [1], BAD, None, "Expected `object`"),
        (CHAT, chat(messages=[{"content": "x"}]), INVALID, "messages", "with a role"),
        (CHAT, chat(messages=[]), INVALID, "messages", "at least one message"),
        (CHAT, chat(messages=[{"role": "user", "content": [IMAGE]}]), INVALID, "messages", "type 'image_url'"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"image_url": "x"}]}]), INVALID, "messages", "type None"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": [1]}]}]), INVALID, "messages", "type [1]"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), INVALID, "messages", "type 'text'"),
        *(
            (CHAT, chat(chat_template_kwargs={name: 1}), INVALID, "chat_template_kwargs", f"must not hold {name!r}")
            for name in ("messages", "tools", "self")
        ),
        (
            CHAT,
            chat(continue_final_message=True),
            INVALID,
            "continue_final_message",
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        ),
        (CHAT, chat(temperature=-1), INVALID, "temperature", "-1"),
        (CHAT, chat(temperature=2.5), INVALID, "temperature", "temperature must be in [0, 2], got 2.5."),
        (CHAT, chat(top_p=0), INVALID, "top_p", "top_p must be "),
        (CHAT, chat(n=0), INVALID, "n", "n must be "),
        (CHAT, chat(n=2, temperature=0), INVALID, "n", "n must be 1 when using greedy sampling, got 2."),
        (CHAT, chat(best_of=3), INVALID, "best_of", "got 3"),
        (CHAT, chat(n=2, best_of=1), INVALID, "best_of", "got 1"),
        (CHAT, chat(stop=["a"] * 5), INVALID, "stop", "at most 4 strings, got 5"),
        (CHAT, chat(max_tokens=0), INVALID, "max_tokens", "at least 1, got 0"),
        (
            CHAT,
            chat(max_tokens=257),
            INVALID,
            "max_tokens",
            "max_tokens=257 cannot be greater than max_total_tokens=256. Please request fewer output",
        ),
        (
            CHAT,
            chat(max_completion_tokens=257, max_tokens=1),
            INVALID,
            "max_completion_tokens",
            "max_completion_tokens=257 cannot be greater",
        ),
        (CHAT, chat(top_logprobs=2), INVALID, "top_logprobs", "when using `top_logprobs`, `logprobs` must be set to"),
        (
            CHAT,
            chat(logprobs=True, top_logprobs=-2),
            INVALID,
            "top_logprobs",
            "`top_logprobs` must be a positive value",
        ),
        (
            CHAT,
            chat(logprobs=True, top_logprobs=21),
            INVALID,
            "top_logprobs",
            "Requested sample logprobs of 21, which is greater than max allowed: 20",
        ),
        (TEXT, completion(logprobs=21), INVALID, "logprobs", "Requested sample logprobs of 21"),
        (TEXT, completion(logprobs=-1), INVALID, "logprobs", "Requested sample logprobs of 260"),
        (TEXT, completion(prompt_logprobs=21), INVALID, "prompt_logprobs", "Requested prompt logprobs of 21"),
        (TEXT, completion(logprob_token_ids=[1]), INVALID, "logprob_token_ids", "`logprobs` must be set"),
        (
            TEXT,
            completion(logprob_token_ids=[1], logprobs=1, echo=True, max_tokens=0),
            INVALID,
            "logprob_token_ids",
            "no output tokens",
        ),
        (CHAT, chat(cache_salt="x" * 129), INVALID, "cache_salt", "at most 128 characters"),
        (CHAT, chat(cache_salt="a/b"), INVALID, "cache_salt", "must not contain '@', '/'"),
        (CHAT, chat(cache_salt=""), INVALID, "cache_salt", "non-empty string"),
        (CHAT, chat(request_id="x" * 129), INVALID, "request_id", "at most 128 characters"),
        (CHAT, chat(priority=2**63), BAD, "priority", "Expected `int` <="),
        (
            CHAT,
            chat(stream_options={"include_usage": False}),
            INVALID,
            "stream_options",
            "Stream options can only be defined when `stream=",
        ),
        (
            CHAT,
            chat(stream=True, prompt_logprobs=1),
            INVALID,
            "prompt_logprobs",
            "are not available when `stream=True`",
        ),
        (TEXT, completion(repetition_detection={"max_pattern_size": 2}), BAD, "repetition_detection", "min_count must"),
        (
            TEXT,
            completion(repetition_detection={"max_pattern_size": 10**9, "min_count": 2}),
            INVALID,
            "repetition_detection",
            "max_pattern_size must be at most 1024",
        ),
        (TEXT, completion(stream_interval=0), BAD, "stream_interval", "Expected `int` >= 1"),
        (TEXT, completion(prompt=["a"] * 1025), INVALID, "prompt", "got 1025"),
        (TEXT, completion(prompt=["a", "b"], n=9999), INVALID, "n", "19998 sequences"),
        (TEXT, completion(prompt=[]), INVALID, "prompt", "got 0"),
        (TEXT, completion(prompt=[1, "a"]), INVALID, "prompt", "mix"),
        (TEXT, completion(prompt=[260]), INVALID, "prompt", "260"),
        (
            TEXT,
            completion(prompt=""),
            INVALID,
            "prompt",
            "Either prompt or prompt_embeds must be provided and non-empty.",
        ),
        (TEXT, {"model": "fake"}, INVALID, "prompt", "Either prompt or prompt_embeds must be provided"),
        (TEXT, completion(max_tokens=0), INVALID, "max_tokens", "at least 1, got 0"),
        (TEXT, completion(truncate_prompt_tokens=0), INVALID, "truncate_prompt_tokens", "got 0"),
        (TEXT, completion(truncate_prompt_tokens=257), INVALID, "truncate_prompt_tokens", "max_model_len = 256"),
        (
            TEXT,
            completion(prompt="x" * 300),
            INVALID,
            "input_tokens",
            "This model's maximum context length is 256 tokens. However, your prompt contains 301 input tokens, which "
            "exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
        ),
        (
            TEXT,
            completion(prompt=[1] * 256),
            INVALID,
            "input_tokens",
            "contains 256 input tokens, which leaves no room",
        ),
        (CHAT, chat(tools=[]), INVALID, "tools", "`tools` must not be an empty array."),
        (CHAT, chat(tools=[TOOL]), INVALID, "tools", 'tool_choice "none"'),
        (CHAT, chat(tools=[TOOL], tool_choice="auto"), INVALID, "tools", 'tool_choice "none"'),
        (CHAT, chat(tool_choice="auto"), INVALID, "tool_choice", "tools cannot be called yet"),
        (CHAT, chat(response_format={"type": "json_object"}), INVALID, "response_format", "grammar or schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(url, path, body, kind, param, message, stream):
    """The status is the same for streams: it is not sent before the request has been taken."""
    if stream and isinstance(body, dict):
        body = {"stream": "stream_options" not in body and "prompt_logprobs" not in body, **body}
    response = post(url, path, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, 400)
    assert message in error["message"]


@pytest.fixture(scope="module")
def pinned():
    """Takes all requests for its own, those with llama.cpp's fields too."""
    from tests.server.conftest import running
    from trivet.server.options import ServerOptions

    with running(FakeLLM(), ServerOptions(dialect="openai")) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "name", "neutral"),
    [
        (path, name, note["refused"])
        for path, shape in ((CHAT, ChatBody), (TEXT, CompletionBody))
        for name, note in notes(shape).items()
        if "refused" in note
    ],
)
def test_unsupported_fields(pinned, path, name, neutral):
    """Refused by name, unless they ask for nothing."""
    body = chat(max_tokens=1) if path == CHAT else completion(max_tokens=1)
    error = post(pinned, path, body | {name: {"type": "?"}}).json()["error"]
    assert (error["code"], error["param"]) == (400, name)
    assert error["message"].startswith(f"{name} is not supported by this server")
    for value in (None, *neutral):
        assert post(pinned, path, body | {name: value}).status_code == 200


def test_content_type(url):
    error = client.post(url + CHAT, content="{}", headers={"content-type": "text/plain"}).json()["error"]
    assert error["type"] == BAD and "Unsupported Media Type: Only 'application/json' is allowed" in error["message"]


def test_no_limit_on_logprobs(serve):
    """--max-logprobs -1."""
    url = serve(FakeLLM(), max_logprobs=-1)
    [choice] = post(url, TEXT, completion(max_tokens=1, logprobs=-1)).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["L"]
    refused = post(url, TEXT, completion(max_tokens=1, logprobs=300)).json()["error"]
    assert "300, which is greater than max allowed: 260" in refused["message"]
