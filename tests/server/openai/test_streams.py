"""A stream adds up to the whole, whatever is asked for."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.wire import chat, events, post

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


SHARED = {
    "max_tokens": st.integers(1, 60),
    "n": st.integers(1, 3),
    "stop": st.sampled_from(["caf", "é", ["zzz", "ran"], "\n", "home.", ["y s", "saw"]]),
    "include_stop_str_in_output": st.booleans(),
    "min_tokens": st.just(1),
    "return_token_ids": st.booleans(),
    "return_tokens_as_token_ids": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "truncate_prompt_tokens": st.integers(1, 3),
    "stream_interval": st.integers(1, 9),
    "stop_token_ids": st.sampled_from([[], [ord("y")], [1, ord(".")]]),
}
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well,"}]
CHATS = optional(
    **SHARED,
    logprobs=st.booleans(),
    echo=st.booleans(),
    add_generation_prompt=st.booleans(),
    messages=st.just(TALK),
    return_prompt_text=st.booleans(),
)
PROMPTS = st.sampled_from(["hi", ["hi", "ho, you"], [1, 50, 60], [[1, 50, 60], [1, 70]]])
COMPLETIONS = optional(**SHARED, prompt=PROMPTS, logprobs=st.integers(0, 2), echo=st.booleans())
SCORES = optional(prompt=PROMPTS, logprobs=st.integers(0, 2), n=st.integers(1, 2), return_token_ids=st.booleans())
STREAM = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
ALWAYS = settings(max_examples=40, suppress_health_check=list(HealthCheck))


def both(url, path, body):
    """The whole, and the chunks of each choice, checked for what all of them have."""
    whole = post(url, path, body)
    assert whole.status_code == 200, whole.text
    whole = whole.json()
    *chunks, last, done = events(post(url, path, body | STREAM))
    assert done == "[DONE]" and last["choices"] == []
    assert last["usage"] == {name: whole["usage"][name] for name in last["usage"]}
    assert all("usage" in chunk and len(chunk["choices"]) == 1 for chunk in chunks)
    streams = [[c for c in chunks if c["choices"][0]["index"] == choice["index"]] for choice in whole["choices"]]
    assert sum(map(len, streams)) == len(chunks)
    for choice, own in zip(whole["choices"], streams, strict=True):
        ends = [c["choices"][0]["finish_reason"] for c in own]
        assert ends == [None] * (len(own) - 1) + [choice["finish_reason"]]
        assert own[-1]["choices"][0]["stop_reason"] == choice["stop_reason"]
    generated = sum(own[-1]["usage"]["completion_tokens"] for own in streams)
    assert generated == whole["usage"]["completion_tokens"]
    return whole, streams


@ALWAYS
@given(fields=CHATS)
def test_chat(url, fields):
    whole, streams = both(url, CHAT, chat(**fields))
    for choice, (role, *own) in zip(whole["choices"], streams, strict=True):
        assert role["prompt_text"] == whole["prompt_text"]
        assert role["prompt_token_ids"] == whole["prompt_token_ids"]
        assert role["choices"][0]["delta"] == {"role": choice["message"]["role"], "content": ""}
        parts = [c["choices"][0] for c in own]
        assert "".join(part["delta"]["content"] for part in parts) == choice["message"]["content"]
        if choice["logprobs"]:
            told = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
            assert told == choice["logprobs"]["content"]
        if choice["token_ids"]:
            assert [token for part in parts for token in part.get("token_ids", [])] == choice["token_ids"]


def check_completion(whole, streams):
    for choice, own in zip(whole["choices"], streams, strict=True):
        parts = [c["choices"][0] for c in own]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for name in choice["logprobs"] or {}:
            assert [entry for part in parts for entry in part["logprobs"][name]] == choice["logprobs"][name]
        if choice["token_ids"] is not None:
            assert [token for part in parts for token in part["token_ids"]] == choice["token_ids"]
        assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert all(part["prompt_token_ids"] is None for part in parts[1:])


@ALWAYS
@given(fields=COMPLETIONS)
def test_completion(url, fields):
    check_completion(*both(url, TEXT, {"prompt": "hi", **fields}))


@settings(ALWAYS, max_examples=20)
@given(fields=SCORES)
def test_scores(url, fields):
    check_completion(*both(url, TEXT, {"prompt": "hi", "echo": True, "max_tokens": 0, **fields}))
