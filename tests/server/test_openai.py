from __future__ import annotations

import math

import pytest

from tests.server import fake_llm
from tests.server.fake_llm import ANSWER
from tests.server.wire import chat, events, get, post
from trivet.engine.request import TokenLogprob

PROMPT_TOKENS = len("user: hi\nassistant: ")
ANSWER_TOKENS = len(ANSWER.encode()) + 1


def completion(**fields):
    return {"model": "fake", "prompt": "hi", **fields}


def test_chat_golden(url):
    body = post(url, "/v1/chat/completions", chat(max_tokens=3)).json()
    assert body["id"].startswith("chatcmpl-") and body["created"] > 0
    assert body["system_fingerprint"].startswith("trivet-")
    volatile = {name: body[name] for name in ("id", "created", "system_fingerprint")}
    golden = {
        "id": "",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Lil",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": "",
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "total_tokens": PROMPT_TOKENS + 3,
            "completion_tokens": 3,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    } | volatile
    assert body == golden
    assert list(body) == list(golden)


def chunk_head(first, kind):
    return {"id": first["id"], "object": kind, "created": first["created"], "model": "fake"}


@pytest.mark.parametrize("usage", [False, True])
def test_chat_stream_golden(url, usage):
    fields = {"stream_options": {"include_usage": True}} if usage else {}
    *got, done = events(post(url, "/v1/chat/completions", chat(max_tokens=2, stream=True, **fields)))
    head = chunk_head(got[0], "chat.completion.chunk")
    signed = {"system_fingerprint": got[-1]["system_fingerprint"]}

    def choice(**delta):
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}

    golden = [
        head | {"choices": [choice(role="assistant", content="")], "prompt_token_ids": None, "prompt_text": None},
        head | {"choices": [choice(content="L") | {"token_ids": None}]},
        head
        | {"choices": [choice(content="i") | {"finish_reason": "length", "stop_reason": None, "token_ids": None}]}
        | ({} if usage else signed),
    ]
    if usage:
        counts = {
            "prompt_tokens": PROMPT_TOKENS,
            "total_tokens": PROMPT_TOKENS + 2,
            "completion_tokens": 2,
        }
        golden.append(head | {"choices": [], "usage": counts} | signed)
    assert got == golden
    assert [list(one) for one in got] == [list(one) for one in golden]
    assert done == "[DONE]"


def test_completion_golden(url):
    body = post(url, "/v1/completions", completion(max_tokens=3)).json()
    assert body["id"].startswith("cmpl-") and body["object"] == "text_completion"
    assert body["choices"] == [
        {
            "index": 0,
            "text": "Lil",
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
    ]
    assert list(body["choices"][0])[:5] == ["index", "text", "logprobs", "finish_reason", "stop_reason"]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 3, 6)


def test_completion_stream_golden(url):
    *got, done = events(post(url, "/v1/completions", completion(max_tokens=2, stream=True)))
    head = chunk_head(got[0], "text_completion")

    def choice(text, reason):
        nothing = {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason} | nothing

    assert got == [
        head | {"choices": [choice("L", None)]},
        head | {"choices": [choice("i", "length")], "system_fingerprint": got[-1]["system_fingerprint"]},
    ]
    assert done == "[DONE]"


def test_completion_defaults_to_16_tokens_and_chat_to_the_end(url):
    assert post(url, "/v1/completions", completion()).json()["usage"]["completion_tokens"] == 16
    body = post(url, "/v1/chat/completions", chat()).json()
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == ANSWER_TOKENS


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 16},
        {"stop": "caf"},
        {"stop": ["zzz", "ran"]},
        {"stop": "home", "include_stop_str_in_output": True},
        {"n": 3},
        {"logprobs": True, "top_logprobs": 2},
        {"return_token_ids": True},
        {"n": 2, "max_completion_tokens": 5, "max_tokens": 9},
    ],
    ids=str,
)
def test_chat_stream_adds_up_to_the_whole(url, fields):
    whole = post(url, "/v1/chat/completions", chat(**fields)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(post(url, "/v1/chat/completions", chat(**fields, **options)))
    assert done == "[DONE]"
    n = fields.get("n", 1)
    assert [chunk["choices"][0]["delta"]["role"] for chunk in chunks[:n]] == ["assistant"] * n
    usage = chunks.pop()["usage"]
    assert usage == {name: whole["usage"][name] for name in usage}
    for choice in whole["choices"]:
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["delta"]["content"] for c in own) == choice["message"]["content"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        assert own[-1]["finish_reason"] and own[-1]["stop_reason"] == choice["stop_reason"]
        if choice["logprobs"]:
            streamed = [entry for c in own[1:] for entry in c["logprobs"]["content"]]
            assert streamed == choice["logprobs"]["content"]
        if choice["token_ids"]:
            assert [token for c in own[1:] for token in c["token_ids"]] == choice["token_ids"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 60},
        {"prompt": ["hi", "ho, you"], "n": 2, "max_tokens": 60},
        {"prompt": [[1, 50, 60], [1, 70]]},
        {"prompt": [1, 50, 60], "logprobs": 2},
        {"echo": True, "logprobs": 1},
        {"echo": True, "max_tokens": 0, "logprobs": 0},
        {"echo": True, "prompt": ["hi", "ho"], "n": 2, "logprobs": 1},
        {"stop": ["café"], "max_tokens": 60},
        {"return_token_ids": True, "logprobs": 0, "return_tokens_as_token_ids": True},
    ],
    ids=str,
)
def test_completion_stream_adds_up_to_the_whole(url, fields):
    whole = post(url, "/v1/completions", completion(**fields)).json()
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *chunks, _ = events(post(url, "/v1/completions", completion(**fields, **options)))
    assert all("usage" in chunk for chunk in chunks)
    usage = chunks.pop()["usage"]
    assert usage == {name: whole["usage"][name] for name in usage}
    prompts = fields.get("prompt", "hi")
    many = isinstance(prompts, list) and not isinstance(prompts[0], int)
    expected = (len(prompts) if many else 1) * fields.get("n", 1)
    assert [choice["index"] for choice in whole["choices"]] == list(range(expected))
    for choice in whole["choices"]:
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        for name in choice["logprobs"] or {}:
            assert [entry for c in own for entry in c["logprobs"][name]] == choice["logprobs"][name]
        if choice["token_ids"]:
            assert [token for c in own for token in c["token_ids"]] == choice["token_ids"]
            assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"]


def test_completion_logprobs(url):
    """The token sampled is the second best of the fake's; the entries are it and the best k."""
    got = post(url, "/v1/completions", completion(max_tokens=2, logprobs=1, echo=True)).json()["choices"][0]
    assert got["text"] == "hiLi"
    assert got["logprobs"] == {
        "text_offset": [0, 3, 4, 5, 6],
        "token_logprobs": [None, -0.5, -0.5, -0.5, -0.5],
        "tokens": ["<s>", "h", "i", "L", "i"],
        "top_logprobs": [None, *({t: -0.5, chr(ord(t) - 1): -0.25} for t in "hiLi")],
    }


@pytest.mark.parametrize(("top", "tokens"), [(0, []), (1, ["L"]), (2, ["L", "K"]), (3, ["L", "K", "M"])])
def test_chat_logprobs(url, top, tokens):
    fields = chat(max_tokens=1, logprobs=True, top_logprobs=top)
    [entry] = post(url, "/v1/chat/completions", fields).json()["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("L", [ord("L")], -0.5)
    assert [one["token"] for one in entry["top_logprobs"]] == tokens


def test_bytes_of_half_a_character(url):
    """Each byte of é is a token of its own: their `bytes` make the character, and no text leaves before."""
    body = chat(logprobs=True, stream=True)
    chunks = events(post(url, "/v1/chat/completions", body))[1:-1]
    entries = [c["choices"][0] for c in chunks]
    accent = ANSWER.encode().index("é".encode())
    assert [e["delta"]["content"] for e in entries[accent : accent + 2]] == ["", "é"]
    data = [b for e in entries[accent : accent + 2] for b in e["logprobs"]["content"][0]["bytes"]]
    assert bytes(data).decode() == "é"


def test_prompt_logprobs(url):
    body = post(url, "/v1/completions", completion(max_tokens=1, prompt_logprobs=1)).json()
    first, second, _ = body["choices"][0]["prompt_logprobs"]
    assert first is None
    assert second == {
        str(ord("h")): {"logprob": -0.5, "rank": 2, "decoded_token": "h"},
        str(ord("g")): {"logprob": -0.25, "rank": 1, "decoded_token": "g"},
    }


@pytest.mark.parametrize("name", ["fake", None, "", "tgi", "dummy"])
def test_known_models(url, name):
    response = post(url, "/v1/chat/completions", chat(max_tokens=1) | {"model": name})
    assert response.status_code == 200 and response.json()["model"] == "fake"


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param", "message"),
    [
        (CHAT, chat(model="gpt-9"), 404, "NotFoundError", "model", "The model `gpt-9` does not exist."),
        (CHAT, {"model": "fake"}, 400, "Bad Request", None, "missing required field `messages`"),
        (CHAT, chat(max_tokens="5"), 400, "Bad Request", "max_tokens", "Expected `int | null`, got `str`"),
        (CHAT, chat(messages=[{"content": "x"}]), 400, "BadRequestError", "messages", "with a role"),
        (CHAT, chat(messages="hi"), 400, "Bad Request", "messages", "Expected `array`"),
        (CHAT, chat(chat_template_kwargs={"messages": 1}), 400, "BadRequestError", "chat_template_kwargs", ""),
        (CHAT, [1], 400, "Bad Request", None, "Expected `object`"),
        (CHAT, chat(temperature=-1), 400, "BadRequestError", "temperature", "-1"),
        (CHAT, chat(temperature=2.5), 400, "BadRequestError", "temperature", "2.5"),
        (CHAT, chat(top_p=0), 400, "BadRequestError", "top_p", "top_p must be greater than 0"),
        (CHAT, chat(n=0), 400, "BadRequestError", "n", "n must be between 1"),
        (CHAT, chat(n=2, temperature=0), 400, "BadRequestError", "n", "greedy"),
        (CHAT, chat(best_of=3), 400, "BadRequestError", "best_of", "got 3"),
        (CHAT, chat(stop=["a"] * 5), 400, "BadRequestError", "stop", "at most 4 strings, got 5"),
        (CHAT, chat(max_tokens=0), 400, "BadRequestError", "max_tokens", "at least 1, got 0"),
        (CHAT, chat(max_tokens=257), 400, "BadRequestError", "max_tokens", "max_tokens=257 cannot be greater"),
        (CHAT, chat(top_logprobs=2), 400, "BadRequestError", "top_logprobs", "`logprobs` must be set to true"),
        (CHAT, chat(logprobs=True, top_logprobs=21), 400, "BadRequestError", "top_logprobs", "got 21"),
        (TEXT, completion(logprobs=21), 400, "BadRequestError", "logprobs", "got 21"),
        (TEXT, completion(logprobs=-1), 400, "BadRequestError", "logprobs", "between 0 and 20, got -1"),
        (CHAT, chat(cache_salt="x" * 129), 400, "BadRequestError", "cache_salt", "128 characters"),
        (TEXT, completion(prompt=["a"] * 1025), 400, "BadRequestError", "prompt", "got 1025"),
        (TEXT, completion(prompt=["a", "b"], n=9999), 400, "BadRequestError", "n", "16384 sequences"),
        (CHAT, chat(stream_options={}), 400, "BadRequestError", "stream_options", "stream=True"),
        (CHAT, chat(stream=True, prompt_logprobs=1), 400, "BadRequestError", "prompt_logprobs", "stream"),
        (CHAT, chat(messages=[]), 400, "BadRequestError", "messages", "at least one message"),
        (TEXT, completion(prompt=[]), 400, "BadRequestError", "prompt", "got 0"),
        (TEXT, completion(prompt=[1, "a"]), 400, "BadRequestError", "prompt", "mix"),
        (TEXT, {"model": "fake"}, 400, "BadRequestError", "prompt", "missing"),
        (TEXT, completion(truncate_prompt_tokens=0), 400, "BadRequestError", "truncate_prompt_tokens", "got 0"),
        (CHAT, chat(tools=[{"type": "function"}]), 400, "BadRequestError", "tools", "not supported"),
        (CHAT, chat(response_format={"type": "json_object"}), 400, "BadRequestError", "response_format", ""),
        (CHAT, chat(guided_json={}), 400, "BadRequestError", "guided_json", "not supported"),
        (CHAT, chat(echo=True), 400, "BadRequestError", "echo", "not supported"),
        (TEXT, completion(suffix="x"), 400, "BadRequestError", "suffix", "not supported"),
        (TEXT, completion(prompt="x" * 300), 400, "BadRequestError", "input_tokens", "256 tokens. However"),
        (TEXT, completion(prompt=[1] * 256), 400, "BadRequestError", "input_tokens", "256 input tokens"),
        (
            CHAT,
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            400,
            "BadRequestError",
            "messages",
            "messages[0].content[0] is of type 'image_url'",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(url, path, body, status, kind, param, message, stream):
    """The status is the same for streams: it is not sent before the request has been taken."""
    if stream and isinstance(body, dict):
        body = {"stream": True, **body}
        if "stream_options" in body:
            body["stream"] = False
    response = post(url, path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    assert message in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "tool_choice": "none", "response_format": {"type": "text"}, "bad_words": []},
        {"user": "me", "metadata": {"a": 1}, "store": True, "unknown_field": [1]},
        {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "typical_p": 0.9, "best_of": 1},
        {"logit_bias": {"50": -100}, "stop_token_ids": [7], "ignore_eos": True, "min_tokens": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"temperature": None, "top_p": None, "n": None, "stop": None, "stream": None, "max_tokens": 4},
    ],
)
def test_accepted(url, fields):
    assert post(url, CHAT, chat(max_tokens=4) | fields).status_code == 200


def test_sampling_reaches_the_engine(url, llm, monkeypatch):
    monkeypatch.setattr(llm, "recommended_params", {"temperature": 0.6, "top_p": 0.9})
    fields = {"temperature": 0.5, "top_k": 7, "seed": 11, "logit_bias": {"50": 200}, "cache_salt": "s"}
    post(url, CHAT, chat(max_completion_tokens=9, max_tokens=3, stop="x", **fields))
    [request] = llm.requests
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.9, 7, 11)
    assert (params.max_tokens, params.stop, params.logit_bias) == (9, ["x"], {50: 100.0})
    assert request.cache_salt == "s"
    assert bytes(request.prompt) == b"user: hi\nassistant: "


def test_what_the_template_gets(url, llm, monkeypatch):
    seen = []

    def render(self, messages, **variables):
        seen.append((messages, variables))
        return "x"

    monkeypatch.setattr(type(llm.chat_template), "render", render)
    given = {"reasoning_effort": "none", "chat_template_kwargs": {"k": 1}, "documents": [{"a": 1}]}
    assert post(url, CHAT, chat(max_tokens=1, add_generation_prompt=False, **given)).status_code == 200
    [(messages, variables)] = seen
    assert messages == [{"role": "user", "content": "hi"}]
    assert variables == {
        "add_generation_prompt": False,
        "continue_final_message": False,
        "documents": [{"a": 1}],
        "reasoning_effort": "none",
        "enable_thinking": False,
        "k": 1,
    }


def test_continue_final_message(url, llm):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well,"}]
    fields = {"add_generation_prompt": False, "continue_final_message": True, "max_tokens": 1}
    assert post(url, CHAT, chat(messages=messages, **fields)).status_code == 200
    assert bytes(llm.requests[0].prompt) == b"user: hi\nassistant: well,"


def test_minus_infinity(url, monkeypatch):
    monkeypatch.setattr(fake_llm, "logprob", lambda token, top: TokenLogprob(token, -math.inf, 9, []))
    body = post(url, TEXT, completion(logprobs=1, max_tokens=1)).json()
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]


def test_models(url):
    listed = get(url, "/v1/models").json()
    [card] = listed["data"]
    assert listed["object"] == "list"
    assert list(card) == [
        "id",
        "object",
        "created",
        "owned_by",
        "root",
        "parent",
        "max_model_len",
        "permission",
    ]
    assert (card["id"], card["max_model_len"]) == ("fake", 256)
    assert get(url, "/v1/models/fake").json() == card
    missing = get(url, "/v1/models/org/other")
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "NotFoundError"


def test_request_ids(url):
    headers = {"X-Request-Id": "abc-1"}
    response = post(url, CHAT, chat(max_tokens=1), headers=headers)
    assert response.headers["x-request-id"] == "abc-1" and response.json()["id"] == "chatcmpl-abc-1"
    for bad in ["a b", "x" * 129]:
        response = post(url, CHAT, chat(max_tokens=1), headers={"X-Request-Id": bad})
        assert len(response.headers["x-request-id"]) == 32
    assert post(url, CHAT, chat(max_tokens=1, request_id="mine")).json()["id"] == "chatcmpl-mine"
