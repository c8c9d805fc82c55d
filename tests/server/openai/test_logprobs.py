from __future__ import annotations

import math

import pytest

from tests.server import fake_llm
from tests.server.fake_llm import ANSWER
from tests.server.wire import chat, events, post
from trivet.engine.request import TokenLogprob

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def completion(**fields):
    return {"model": "fake", "prompt": "hi", **fields}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_echo(url, n, stream):
    reply = post(url, TEXT, completion(max_tokens=2, logprobs=1, echo=True, stream=stream, n=n, temperature=1))
    choices = [c for chunk in (events(reply)[:-1] if stream else [reply.json()]) for c in chunk["choices"]]
    for index in range(n):
        tokens = [t for c in choices if c["index"] == index for t in c["logprobs"]["tokens"]]
        assert tokens[:3] == ["<s>", "h", "i"] and len(tokens) == 5


def test_completion(url):
    """The token sampled is the second best of the fake's; the entries are it and the best k."""
    got = post(url, TEXT, completion(max_tokens=2, logprobs=1, echo=True)).json()["choices"][0]
    assert got["text"] == "hiLi"
    assert got["logprobs"] == {
        "text_offset": [0, 3, 4, 5, 6],
        "token_logprobs": [None, -0.5, -0.5, -0.5, -0.5],
        "tokens": ["<s>", "h", "i", "L", "i"],
        "top_logprobs": [None, *({t: -0.5, chr(ord(t) - 1): -0.25} for t in "hiLi")],
    }


@pytest.mark.parametrize(("top", "tokens"), [(0, []), (1, ["L"]), (2, ["L", "K"]), (3, ["L", "K", "M"])])
def test_chat(url, top, tokens):
    fields = chat(max_tokens=1, logprobs=True, top_logprobs=top)
    [entry] = post(url, CHAT, fields).json()["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("L", [ord("L")], -0.5)
    assert [one["token"] for one in entry["top_logprobs"]] == tokens


def test_bytes_of_half_a_character(url):
    """Each byte of é is a token of its own: their `bytes` make the character, and no text leaves before."""
    chunks = events(post(url, CHAT, chat(logprobs=True, stream=True)))[1:-1]
    entries = [c["choices"][0] for c in chunks]
    accent = ANSWER.encode().index("é".encode())
    assert [e["delta"]["content"] for e in entries[accent : accent + 2]] == ["", "é"]
    data = [b for e in entries[accent : accent + 2] for b in e["logprobs"]["content"][0]["bytes"]]
    assert bytes(data).decode() == "é"


@pytest.mark.parametrize(
    ("path", "body"), [(TEXT, completion()), (CHAT, chat()), (TEXT, completion(n=2)), (CHAT, chat(n=2, temperature=1))]
)
def test_prompt(url, path, body):
    whole = post(url, path, body | {"max_tokens": 1, "prompt_logprobs": 1}).json()
    found = whole["prompt_logprobs"] if path == CHAT else whole["choices"][0]["prompt_logprobs"]
    assert len(found) == whole["usage"]["prompt_tokens"] and found[0] is None
    token = ord("h") if path == TEXT else ord("s")
    assert found[1] == {
        str(token): {"logprob": -0.5, "rank": 2, "decoded_token": chr(token)},
        str(token - 1): {"logprob": -0.25, "rank": 1, "decoded_token": chr(token - 1)},
    }


def test_prompt_by_echo(url):
    [choice] = post(url, TEXT, completion(max_tokens=1, echo=True, logprobs=0)).json()["choices"]
    assert choice["prompt_logprobs"][0] is None
    assert list(choice["prompt_logprobs"][1]) == [str(ord("h"))]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    own = post(url, TEXT, completion(max_tokens=1, echo=True, logprobs=0, prompt_logprobs=1)).json()["choices"][0]
    assert len(own["prompt_logprobs"][1]) == 2


@pytest.mark.parametrize(
    ("path", "body"), [(TEXT, completion(logprobs=1)), (CHAT, chat(logprobs=True, top_logprobs=1))]
)
def test_tokens_as_ids(url, path, body):
    [choice] = post(url, path, body | {"max_tokens": 1, "return_tokens_as_token_ids": True}).json()["choices"]
    name = f"token_id:{ord('L')}"
    if path == TEXT:
        assert choice["logprobs"]["tokens"] == [name] and name in choice["logprobs"]["top_logprobs"][0]
    else:
        [entry] = choice["logprobs"]["content"]
        assert entry["token"] == entry["top_logprobs"][0]["token"] == name


def test_minus_infinity(url, monkeypatch):
    monkeypatch.setattr(fake_llm, "logprob", lambda token, top: TokenLogprob(token, -math.inf, 9, []))
    body = post(url, TEXT, completion(logprobs=1, max_tokens=1)).json()
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]
