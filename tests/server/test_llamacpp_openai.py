"""The OpenAI API as llama.cpp has it: on its own paths, where a request has a field of its own, and where pinned."""

from __future__ import annotations

import re

import openai
import pytest

from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM
from tests.server.wire import client, events, post

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def pinned():
    from tests.server.conftest import running
    from trivet.server.options import ServerOptions

    llm = FakeLLM()
    with running(llm, ServerOptions(dialect="llamacpp")) as url:
        yield url, llm


@pytest.fixture
def url(pinned):
    pinned[1].requests.clear()
    return pinned[0]


@pytest.fixture
def llm(pinned):
    return pinned[1]


def chat(*messages, **fields):
    return {"messages": messages or [USER], **fields}


def test_chat_golden(url):
    got = post(url, CHAT, chat(max_tokens=3)).json()
    head = [got.pop(name) for name in ("created", "id", "system_fingerprint", "timings")]
    assert re.fullmatch(r"chatcmpl-[0-9A-Za-z]{32}", head[1]) and head[2].startswith("b")
    assert head[3]["predicted_n"] == 3
    prompt = len("<s>user: hi\nassistant: ") - 2
    assert got == {
        "choices": [
            {"finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": "Lil"}},
        ],
        "model": "fake",
        "object": "chat.completion",
        "usage": {
            "completion_tokens": 3,
            "prompt_tokens": prompt,
            "total_tokens": prompt + 3,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


def test_text_golden(url):
    got = post(url, TEXT, {"prompt": "hi", "max_tokens": 3}).json()
    keys = ["choices", "created", "model", "system_fingerprint", "object", "usage", "id", "timings"]
    assert list(got) == keys
    assert got["choices"] == [{"text": "Lil", "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert (got["object"], got["model"], got["usage"]["prompt_tokens"]) == ("text_completion", "fake", 3)


def test_chat_stream_golden(url):
    got = events(post(url, CHAT, chat(max_tokens=2, stream=True, stream_options={"include_usage": True})))
    assert got.pop() == "[DONE]"
    head = {"created": got[0]["created"], "id": got[0]["id"], "model": "fake"}
    head |= {"system_fingerprint": got[0]["system_fingerprint"], "object": "chat.completion.chunk"}
    assert {name: got[-1]["timings"].pop(name) for name in ("predicted_n", "prompt_n")} == {
        "predicted_n": 2,
        "prompt_n": 20,
    }
    del got[-1]["timings"]
    assert got == [
        {"choices": [{"finish_reason": finish, "index": 0, "delta": delta}], **head}
        for finish, delta in [
            (None, {"role": "assistant", "content": None}),
            (None, {"content": "L"}),
            (None, {"content": "i"}),
            ("length", {}),
        ]
    ] + [
        {
            "choices": [],
            **head,
            "usage": {
                "completion_tokens": 2,
                "prompt_tokens": 21,
                "total_tokens": 23,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        }
    ]
    assert list(got[0]) == ["choices", "created", "id", "model", "system_fingerprint", "object"]


def test_text_stream_golden(url):
    got = events(post(url, TEXT, {"prompt": "hi", "max_tokens": 2, "stream": True}))
    assert got.pop() == "[DONE]"
    assert [chunk["choices"][0] for chunk in got] == [
        {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        for text, finish in [("L", None), ("i", None), ("", "length")]
    ]
    assert "usage" not in got[0] and "timings" not in got[0]
    assert got[-1]["usage"]["completion_tokens"] == got[-1]["timings"]["predicted_n"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": ["saw"]},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 1, "post_sampling_probs": True},
        {"echo": True, "messages": [USER, {"role": "assistant", "content": "So"}]},
        {"max_tokens": 0},
        {"timings_per_token": True, "stream_options": {"include_usage": True}},
        {"return_progress": True},
        {"verbose": True},
    ],
    ids=str,
)
def test_a_chats_stream_adds_up_to_the_whole(url, fields):
    request = chat(seed=1) | fields
    whole = post(url, "/chat/completions", request).json()
    *chunks, done = events(post(url, CHAT, request | {"stream": True}))
    assert done == "[DONE]"
    assert len(whole["choices"]) == fields.get("n", 1)
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        first = 3 if "return_progress" in fields else 0
        assert all(c["delta"] == {"role": "assistant", "content": None} for c in own[: first + 1])
        assert all("role" not in c["delta"] for c in own[first + 1 :])
        assert "".join(c["delta"].get("content") or "" for c in own) == choice["message"]["content"]
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        told = [entry for c in own for entry in c.get("logprobs", {"content": []})["content"]]
        assert told == choice.get("logprobs", {"content": []})["content"]
        assert bool(told) == ("logprobs" in fields)
    if "timings_per_token" in fields:
        assert "timings" not in chunks[0] and all("timings" in chunk for chunk in chunks[1:-2])
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert ("__verbose" in whole) == any("__verbose" in chunk for chunk in chunks) == ("verbose" in fields)
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert len(progress) == (3 if "return_progress" in fields else 0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": 2},
        {"n": 2},
        {"echo": True},
        {"echo": True, "n": 2, "prompt": ["hi", "ho"]},
        {"max_tokens": 0, "echo": True},
        {"verbose": True},
    ],
    ids=str,
)
def test_a_texts_stream_adds_up_to_the_whole(url, fields):
    request = {"prompt": "hi", "seed": 1, "max_tokens": 9} | fields
    whole = post(url, TEXT, request).json()
    *chunks, _ = events(post(url, TEXT, request | {"stream": True}))
    assert len(whole["choices"]) == fields.get("n", 1) * (2 if isinstance(fields.get("prompt"), list) else 1)
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert choice["text"].startswith("h") == ("echo" in fields)
        assert own[-1]["finish_reason"] == choice["finish_reason"] == "length"
        told = [entry for c in own for entry in (c["logprobs"] or {"content": []})["content"]]
        assert told == (choice["logprobs"] or {"content": []})["content"]
    generated = [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk]
    assert sum(generated) == whole["usage"]["completion_tokens"]
    assert ("__verbose" in whole) == all("__verbose" in chunk for chunk in chunks) == ("verbose" in fields)


def test_verbose(url):
    native = post(url, CHAT, chat(verbose=True)).json()["__verbose"]
    assert native["prompt"] == "<s>user: hi\nassistant: "
    assert native["generation_settings"]["temperature"] == 0.8


SO = {"role": "assistant", "content": "So"}
HI = {"type": "text", "text": "hi"}
NO = {"type": "refusal", "refusal": "no"}


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "user: hi\nassistant: "),
        ({"add_generation_prompt": False}, "user: hi\n"),
        ({"messages": [USER, SO]}, "user: hi\nassistant: So"),
        (
            {"messages": [USER, SO | {"content": [{"type": "text", "text": t} for t in ("S", "o")]}]},
            "user: hi\nassistant: So",
        ),
        ({"messages": [USER, SO], "continue_final_message": True}, "user: hi\nassistant: So"),
        ({"messages": [USER, SO], "continue_final_message": "content"}, "user: hi\nassistant: So"),
        ({"messages": [{"role": "user", "content": [NO, HI]}]}, "user: hi\nassistant: "),
        ({"messages": [USER, SO | {"content": [HI, NO]}]}, "user: hi\nassistant: hi"),
        ({"messages": [USER, SO], "continue_final_message": False}, "user: hi\nassistant: So\nassistant: "),
        ({"messages": [{"role": "developer", "content": "x"}, USER]}, "system: x\nuser: hi\nassistant: "),
        ({"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}}, "user: hi\nassistant: "),
    ],
    ids=str,
)
def test_prompts(url, llm, fields, prompt):
    request = chat() | fields
    assert post(url, "/apply-template", request).json() == {"prompt": prompt}
    count = {"object": "response.input_tokens", "input_tokens": len(prompt) + 1}
    for path in ("/chat/completions/input_tokens", CHAT + "/input_tokens"):
        assert post(url, path, request).json() == count
    assert post(url, CHAT, request | {"max_tokens": 1}).json()["usage"]["prompt_tokens"] == len(prompt) + 1
    assert llm.tokenizer.decode(llm.requests[0].prompt) == "<s>" + prompt


def test_long_conversations(url):
    """Their template is applied in a thread."""
    prompt = {"prompt": "user: hi\n" * 500 + "assistant: "}
    assert post(url, "/apply-template", chat(*[USER] * 500)).json() == prompt
    wrong = post(url, "/apply-template", chat(*[USER] * 500, {"role": 5, "content": "hi"}))
    assert wrong.status_code == 400 and "messages[500]" in wrong.text


def test_the_templates_own_beginning_is_not_doubled(serve):
    llm = FakeLLM()
    llm.args.chat_template = "{{ bos_token }}{{ messages[0].content }}{{ enable_thinking }}{{ reasoning_effort }}"
    url = serve(llm)
    fields = {"reasoning_effort": "none", "chat_template_kwargs": {"reasoning_effort": "x"}}
    assert post(url, "/apply-template", chat(**fields)).json() == {"prompt": "hiFalsex"}
    assert post(url, "/chat/completions", chat(**fields)).json()["usage"]["prompt_tokens"] == len("hiFalsex") + 1


@pytest.mark.parametrize(
    ("defaults", "given", "prompt"),
    [
        ({}, {}, r"\d\d [A-Z][a-z]{2} \d{4}\|[A-Z][a-z]{2} \d\d \d{4}"),
        ({"date_string": "a", "datetime": "b"}, {}, r"a\|b"),
        ({"date_string": "a", "datetime": "b"}, {"datetime": "c"}, r"a\|c"),
    ],
    ids=str,
)
def test_dates(serve, defaults, given, prompt):
    llm = FakeLLM()
    llm.args.chat_template = "{{ date_string }}|{{ datetime }}"
    llm.args.default_chat_template_kwargs = defaults
    response = post(serve(llm), "/apply-template", chat(chat_template_kwargs=given))
    assert re.fullmatch(prompt, response.json()["prompt"])


def test_own_defaults(url, llm):
    post(url, CHAT, chat())
    post(url, TEXT, {"prompt": "hi"})
    for request in llm.requests:
        params = request.params
        assert (params.temperature, params.top_k, params.min_p, params.penalty_last_n) == (0.8, 40, 0.05, 64)
        assert params.max_tokens == 256 - len(request.prompt)


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"logprobs": True}, {"logprobs": 20}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"logprobs": False}, {"logprobs": None}),
        ({"n_probs": 4}, {"logprobs": 4}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"logit_bias": {"50": 2}}, {"logit_bias": {50: 2.0}}),
    ],
    ids=str,
)
def test_chat_fields(url, llm, fields, params):
    assert post(url, CHAT, chat(**{"max_tokens": 3} | fields)).status_code == 200
    assert {name: getattr(llm.requests[0].params, name) for name in params} == params


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"messages": None}, "'messages' is required"),
        (CHAT, {"messages": "string"}, "Expected 'messages' to be an array"),
        (CHAT, {"messages": [123]}, "messages[0]"),
        (CHAT, {"messages": [{}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": 123}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "system", "content": 123}]}, "content"),
        (CHAT, {"messages": [USER, {}]}, "messages[1]"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [USER, SO, SO]}, "Cannot have 2 or more assistant messages at the end of the list."),
        (CHAT, {"messages": [USER, SO | {"content": 5}]}, "a text or a list of text parts"),
        (CHAT, {"continue_final_message": True}, "continue_final_message needs an assistant's message"),
        (CHAT, {"continue_final_message": "content"}, "continue_final_message needs an assistant's message"),
        (CHAT, {"continue_final_message": "reasoning"}, "continue_final_message is not supported"),
        (CHAT, {"continue_final_message": "x"}, "continue_final_message"),
        (CHAT, {"chat_template_kwargs": {"messages": []}}, "must not hold 'messages'"),
        (CHAT, {"chat_template_kwargs": {"self": 1}}, "must not hold 'self'"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools is not supported"),
        (CHAT, {"tool_choice": "required"}, "tool_choice is not supported"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format is not supported"),
        (CHAT, {"response_format": {"type": "sound"}}, "response_format is not supported"),
        (CHAT, {"json_schema": {"const": "42"}}, "json_schema is not supported"),
        (CHAT, {"grammar": 'root ::= "a"'}, "grammar is not supported"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs requires logprobs to be set to true"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "Field 'top_logprobs'"),
        (CHAT, {"reasoning_control": True}, "reasoning_control is not supported"),
        (TEXT, {}, '"prompt" elements must be'),
        (TEXT, {"prompt": "hi", "suffix": "x"}, "suffix is not supported"),
        (TEXT, {"prompt": "hi", "best_of": 2}, "best_of is not supported"),
        (CHAT + "/control", {"id": "chatcmpl-1", "action": "reasoning_end"}, "reasoning_control"),
        (CHAT + "/control", {"id": "chatcmpl-1", "action": "x"}, "action must be 'reasoning_end'"),
        (CHAT + "/control", {}, "action must be 'reasoning_end'"),
    ],
    ids=str,
)
def test_refusals(url, path, fields, message):
    for stream in (False, True):
        request = chat(stream=stream) | fields if path == CHAT else {"stream": stream} | fields
        response = post(url, path, request)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
        assert message in error["message"]


def test_a_prompt_that_is_too_long(url):
    for stream in (False, True):
        error = post(url, CHAT, chat(*[USER] * 100, stream=stream)).json()["error"]
        assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 256)
        assert error["n_prompt_tokens"] > 256


def test_an_engine_that_fails(serve):
    url = serve(FakeLLM(fail_after=2))
    error = {"error": {"code": 500, "message": "the engine died", "type": "server_error"}}
    assert post(url, "/chat/completions", chat()).json() == error
    assert events(post(url, "/chat/completions", chat(stream=True)))[-1] == error


@pytest.mark.parametrize("field", ["n_predict", "cache_prompt", "repeat_penalty", "samplers", "mirostat", "id_slot"])
def test_whose_a_shared_path_is(serve, field):
    """Not pinned, a request is llama.cpp's that has one of its fields."""
    url = serve(FakeLLM())
    value = {"samplers": "kt", "cache_prompt": True}.get(field, 1)
    for path, request in ((CHAT, chat()), (TEXT, {"prompt": "hi"})):
        assert "timings" not in post(url, path, request).json()
        assert "timings" in post(url, path, request | {field: value}).json()


def test_the_openai_package(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="none") as api:
        whole = api.chat.completions.create(model="any", messages=[USER], logprobs=True, top_logprobs=2)
        assert whole.choices[0].message.content == ANSWER
        assert [entry.token for entry in whole.choices[0].logprobs.content][:3] == ["L", "i", "l"]
        stream = api.chat.completions.create(model="any", messages=[USER], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER
        text = api.completions.create(model="any", prompt="hi")
        assert (text.choices[0].text, text.usage.completion_tokens) == (ANSWER, len(TOKENS))
        assert [model.id for model in api.models.list()] == ["fake"]


def test_what_there_is_not(url):
    for method, path, status, kind in (("GET", "/nothing", 404, "not_found_error"), ("GET", "/infill", 405, None)):
        error = client.request(method, url + path).json()["error"]
        assert (error["code"], error["type"]) == (status, kind or "invalid_request_error")


@pytest.mark.parametrize("path", ["/", "/completion", "/v1/messages", "/nothing"])
def test_options(url, path):
    """Without a preflight's headers, too."""
    assert client.options(url + path).status_code == 200


def test_options_elsewhere(serve, llm):
    assert client.options(serve(llm) + "/completion").status_code == 405


def test_models(url):
    got = client.get(url + "/v1/models").json()
    assert got == client.get(url + "/models").json()
    assert list(got) == ["models", "object", "data"]
    [entry] = got["data"]
    meta = entry.pop("meta")
    assert entry.pop("created") > 0
    assert entry == {"id": "fake", "aliases": ["fake"], "tags": [], "object": "model", "owned_by": "llamacpp"}
    assert (meta["n_vocab"], meta["n_ctx"], meta["size"], meta["ftype"]) == (260, 256, 1000, "f32")
    assert got["models"][0]["name"] == "fake" and got["models"][0]["capabilities"] == ["completion"]


def test_the_first_alias_in_the_alphabet_is_the_name(serve):
    llm = FakeLLM()
    llm.args.served_model_name = ["tiny", "fim", "code"]
    url = serve(llm)
    [entry] = client.get(url + "/models").json()["data"]
    assert (entry["id"], entry["aliases"]) == ("code", ["code", "fim", "tiny"])
    assert post(url, "/completion", {"prompt": "hi"}).json()["model"] == "code"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [USER]}),
        (TEXT, {"prompt": "hi"}),
        ("/v1/messages", {"messages": [USER], "max_tokens": 2}),
        ("/v1/messages/count_tokens", {"messages": [USER]}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
def test_any_name_of_the_model_will_do(url, path, fields):
    """One model is served, and answers have its own name: programs made for others need not know it."""
    response = post(url, path, {"model": "claude-x", **fields})
    assert response.status_code == 200
    assert response.json().get("model", "fake") == "fake"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"n_predict": -5}])
def test_headers(url, stream, fields):
    headers = post(url, CHAT, chat(stream=stream, **fields)).headers
    assert headers["server"] == "llama.cpp"
    assert headers["content-type"] == ("text/event-stream" if stream and not fields else "application/json")
