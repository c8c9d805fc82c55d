from __future__ import annotations

import itertools
import json

import pytest

from tests.server.fake_llm import ANSWER, BOS, FakeLLM
from tests.server.wire import events, post

TEXT = "/v1/completions"


def completion(**fields):
    return {"model": "fake", "prompt": "hi", **fields}


def test_16_tokens_by_default(url):
    assert post(url, TEXT, completion()).json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "encoded"),
    [
        ("hi", [[BOS, *b"hi"]]),
        (["hi", "ho"], [[BOS, *b"hi"], [BOS, *b"ho"]]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["hi", [3]], [[BOS, *b"hi"], [3]]),
    ],
)
def test_prompts(url, llm, prompt, encoded):
    body = post(url, TEXT, completion(prompt=prompt, max_tokens=1, n=2, return_token_ids=True)).json()
    assert sorted(request.prompt for request in llm.requests) == sorted(encoded)
    assert [choice["prompt_token_ids"] for choice in body["choices"]] == [ids for ids in encoded for _ in range(2)]
    assert [choice["text"] for choice in body["choices"]] == ["L", "i"] * len(encoded)


def test_no_special_tokens(url, llm):
    post(url, TEXT, completion(add_special_tokens=False, max_tokens=1))
    assert llm.requests[0].prompt == [*b"hi"]


@pytest.mark.parametrize(
    ("prompt", "keep", "side", "kept"),
    [
        ("abcd", 3, None, [BOS, *b"cd"]),
        ("abcd", 3, "left", [*b"bcd"]),
        ("abcd", 3, "right", [BOS, *b"ab"]),
        ("abcd", 9, "right", [BOS, *b"abcd"]),
        ([BOS, 1, 2, 3], 2, None, [2, 3]),
        ([BOS, 1, 2, 3], 2, "right", [BOS, 1]),
        ([BOS, *[1] * 299], -1, None, [1] * 255),
    ],
)
def test_truncation(url, llm, prompt, keep, side, kept):
    fields = {"truncate_prompt_tokens": keep, "truncation_side": side, "max_tokens": 1}
    assert post(url, TEXT, completion(prompt=prompt, **fields)).status_code == 200
    assert llm.requests[0].prompt == kept


def test_echo_of_what_is_left_of_token_ids(url):
    fields = {"truncate_prompt_tokens": 2, "max_tokens": 1, "echo": True}
    [choice] = post(url, TEXT, completion(prompt=[*b"abc"], **fields)).json()["choices"]
    assert choice["text"] == "bcL"


@pytest.mark.parametrize("stream", [False, True])
def test_score_only(url, stream):
    """echo with max_tokens 0: nothing is generated, as far as the client can see."""
    fields = {"echo": True, "max_tokens": 0, "logprobs": 0, "return_token_ids": True}
    response = post(url, TEXT, completion(stream=stream, **fields))
    body = events(response)[0] if stream else response.json()
    [choice] = body["choices"]
    assert (choice["text"], choice["finish_reason"], choice["token_ids"]) == ("hi", "length", [])
    assert choice["logprobs"]["tokens"] == ["<s>", "h", "i"]
    if not stream:
        assert body["usage"]["completion_tokens"] == 0
        assert [entry is None for entry in choice["prompt_logprobs"]] == [True, False, False]


def test_score_a_prompt_that_fills_the_context(url):
    fields = {"echo": True, "max_tokens": 0, "logprobs": 0}
    [choice] = post(url, TEXT, completion(prompt=[5] * 256, **fields)).json()["choices"]
    assert len(choice["logprobs"]["tokens"]) == 256
    [choice] = post(url, TEXT, completion(prompt=[5] * 300, truncate_prompt_tokens=-1, **fields)).json()["choices"]
    assert len(choice["logprobs"]["tokens"]) == 256
    error = post(url, TEXT, completion(prompt=[5] * 257, **fields)).json()["error"]
    assert "257 input tokens, which exceeds this limit" in error["message"]


def test_bad_words_and_token_ids_reach_the_engine(url, llm):
    fields = {"bad_words": ["x"], "logprobs": 2, "logprob_token_ids": [5, 6], "allowed_token_ids": [1], "min_tokens": 1}
    assert post(url, TEXT, completion(max_tokens=1, **fields)).status_code == 200
    params = llm.requests[0].params
    assert (params.bad_words, params.logprob_token_ids, params.allowed_token_ids) == (["x"], [5, 6], [1])


def test_repetitions(serve):
    url = serve(FakeLLM(answer=[*b"ababababab"]))
    rule = {"max_pattern_size": 3, "min_pattern_size": 2, "min_count": 3}
    [choice] = post(url, TEXT, completion(max_tokens=10, repetition_detection=rule)).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ababab", "repetition")


def test_stream_interval(url):
    *chunks, _ = events(post(url, TEXT, completion(max_tokens=9, stream=True, stream_interval=4)))
    assert [len(chunk["choices"][0]["text"]) for chunk in chunks] == [1, 4, 4]


def test_invocations(url):
    whole = post(url, TEXT, completion(max_tokens=2)).json()
    assert post(url, "/invocations", completion(max_tokens=2)).json()["choices"] == whole["choices"]
    messages = [{"role": "user", "content": "hi"}]
    talk = post(url, "/invocations", {"messages": messages, "max_tokens": 2}).json()
    assert talk["object"] == "chat.completion"
    nothing = post(url, "/invocations", {"input": "x"})
    assert nothing.status_code == 400 and "Cannot find suitable handler" in nothing.json()["error"]["message"]


def test_legacy_generate(url, serve):
    body = {"prompt": "hi", "n": 2, "max_tokens": 3, "temperature": 0.5}
    assert post(url, "/generate", body).json() == {"text": ["hi" + ANSWER[:3], "hi" + ANSWER[1:4]]}
    response = post(url, "/generate", body | {"stream": True})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"] == "application/x-ndjson"
    assert lines[-1] == {"text": ["hi" + ANSWER[:3], "hi" + ANSWER[1:4]]}
    for before, after in itertools.pairwise(lines):
        assert all(longer.startswith(text) for text, longer in zip(before["text"], after["text"], strict=True))
    for wrong in ({"prompt": ["a", "b"]}, {"prompt": "a", "echo": True}, {"prompt": "a", "n": 0}):
        assert post(url, "/generate", wrong).json()["error"]["code"] == 400
    broken = serve(FakeLLM(fail_after=2))
    *_, last = post(broken, "/generate", {"prompt": "hi", "stream": True}).text.splitlines()
    assert json.loads(last)["error"]["message"] == "the engine died"
