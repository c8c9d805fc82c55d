"""Chat and completions as TGI answers them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.fake_llm import ANSWER, BOS, TOKENS, FakeLLM
from tests.server.wire import chat, events, post
from trivet import __version__
from trivet.server.dialects.tgi.openai_schemas import ChatBody, CompletionBody

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RENDERED = "user: hi\nassistant: "
P, G = len(RENDERED), len(TOKENS)


def head(kind, model="fake"):
    return {"object": kind, "id": "", "model": model, "system_fingerprint": f"{__version__}-native"}


def answered(response):
    """The body, without the time."""
    assert response.status_code == 200, response.text
    return timeless(response.json())


def timeless(body):
    assert isinstance(body.pop("created"), int)
    return body


def test_chat_golden(tgi):
    response = post(tgi, CHAT, chat(max_tokens=2))
    assert list(response.json()) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
    message = {"role": "assistant", "content": "Li"}
    assert answered(response) == {
        **head("chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": P, "completion_tokens": 2, "total_tokens": P + 2},
    }
    headers = response.headers
    assert (headers["x-compute-characters"], headers["x-prompt-tokens"], headers["x-generated-tokens"]) == (
        str(P),
        str(P),
        "2",
    )
    assert float(headers["x-compute-time"]) > 0


def test_chat_stream_golden(tgi):
    """Transcript A3 of the reference: the role in every chunk, the end token with no text, the usage alone."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = post(tgi, CHAT, chat(**options))
    assert response.headers["x-compute-characters"] == str(P) and response.headers["x-accel-buffering"] == "no"
    *chunks, usage, done = events(response)

    def chunk(content, reason):
        delta = {"role": "assistant", "content": content}
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return {**head("chat.completion.chunk"), "choices": choices, "usage": None}

    assert [timeless(one) for one in chunks[:2]] == [chunk("L", None), chunk("i", None)]
    assert timeless(chunks[-1]) == chunk("", "stop")
    assert len(chunks) == G
    counts = {"prompt_tokens": P, "completion_tokens": G, "total_tokens": P + G}
    assert timeless(usage) == {**head("chat.completion.chunk"), "choices": [], "usage": counts}
    assert done == "[DONE]"


@pytest.mark.parametrize(
    "fields",
    [{}, {"stop": "ran"}, {"stop": ["saw", "x"]}, {"max_tokens": 7}, {"n": 2, "max_completion_tokens": 9}],
    ids=str,
)
def test_chat_streams_add_up(tgi, fields):
    fields |= {"logprobs": True, "top_logprobs": 2}
    whole = answered(post(tgi, CHAT, chat(**fields)))
    *chunks, done = events(post(tgi, CHAT, chat(stream=True, **fields)))
    for choice in whole["choices"]:
        own = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert "".join(one["delta"]["content"] for one in own) == choice["message"]["content"]
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        assert [one["logprobs"]["content"][0] for one in own] == choice["logprobs"]["content"]
    assert all(one["usage"] is None for one in chunks) and done == "[DONE]"


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({}, ANSWER, "stop"),
        ({"stop": "saw"}, "Lily saw", "stop"),
        ({"max_tokens": 3}, "Lil", "length"),
        ({"max_completion_tokens": 3, "max_tokens": 9}, "Lil", "length"),
    ],
)
def test_chat_ends(tgi, fields, text, reason):
    """What TGI calls `stop_sequence` is `stop` to the clients of OpenAI's API, which it offers."""
    [choice] = post(tgi, CHAT, chat(**fields)).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


def test_chat_logprobs(tgi):
    [choice] = post(tgi, CHAT, chat(max_tokens=1, logprobs=True, top_logprobs=2)).json()["choices"]
    best = [{"token": "K", "logprob": -0.25}, {"token": "L", "logprob": -0.5}]
    assert choice["logprobs"] == {"content": [{"token": "L", "logprob": -0.5, "top_logprobs": best}]}
    [choice] = post(tgi, CHAT, chat(max_tokens=1, logprobs=True)).json()["choices"]
    assert choice["logprobs"] == {"content": [{"token": "L", "logprob": -0.5, "top_logprobs": []}]}


@pytest.mark.parametrize(
    ("asked", "called"), [("tgi", "fake"), (None, "fake"), ("dummy", "dummy"), ("org/other", "org/other")]
)
def test_any_model_will_do(tgi, asked, called):
    for path, body in ((CHAT, chat()), (COMPLETIONS, {"prompt": "hi"})):
        assert post(tgi, path, body | {"model": asked, "max_tokens": 1}).json()["model"] == called


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"temperature": 1.0, "presence_penalty": 0.0, "top_p": 1.0, "n": 1}),
        ({"temperature": 0, "top_p": 1}, {"temperature": 0.0, "top_p": 1.0}),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, {"temperature": 0.5, "top_p": 0.9, "seed": 7}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5, "repetition_penalty": 1.0}),
        ({"frequency_penalty": 0.5, "repetition_penalty": 1.2}, {"frequency_penalty": 0.5, "repetition_penalty": 1.2}),
        ({"logit_bias": {"97": 5}, "top_k": 3, "min_p": 0.1}, {"logit_bias": {97: 5.0}, "top_k": 3, "min_p": 0.1}),
    ],
    ids=str,
)
def test_parameters_reach_the_engine(tgi, tgi_llm, fields, expected):
    for path, body in ((CHAT, chat()), (COMPLETIONS, {"prompt": "hi"})):
        assert post(tgi, path, body | fields).status_code == 200
        params = tgi_llm.requests[-1].params
        assert {name: getattr(params, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": "hi"}], RENDERED),
        ([{"role": "user", "content": [{"type": "text", "text": t} for t in "hi"]}], RENDERED),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}], "user: hi\nassistant: Well"),
        ([{"role": "user", "content": "hi", "name": "x"}, {"role": "tool", "content": "t"}], None),
    ],
)
def test_prompts(tgi, tgi_llm, messages, prompt):
    """The template writes all special tokens; parts are put together; a last message of the assistant goes on."""
    assert post(tgi, CHAT, chat(messages=messages, max_tokens=1)).status_code == 200
    assert bytes(tgi_llm.requests[-1].prompt).decode() == (prompt or "user: hi\ntool: t\nassistant: ")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"messages": []}, "template_error", "Template error: messages must be a list of at least one message"),
        ({"tools": [TOOL]}, "validation", "Input validation error: tools is not supported by this server: "),
        (
            {"response_format": {"type": "json_object"}},
            "validation",
            "Input validation error: response_format is not supported by this server: ",
        ),
        (
            {"response_format": {"type": "json_object"}, "tools": []},
            "tool_error",
            "Tool error: Grammar and tools are mutually exclusive",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "validation",
            "Input validation error: image modality is not supported",
        ),
    ],
    ids=str,
)
def test_what_is_refused_before_the_stream(tgi, fields, kind, message):
    for stream in (False, True):
        response = post(tgi, CHAT, chat(stream=stream, **fields))
        assert response.status_code == 422 and response.json()["error_type"] == kind
        assert response.json()["error"].startswith(message)


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": [TOOL], "tool_choice": "none"}, {"tool_choice": "auto"}])
def test_what_asks_for_no_tool(tgi, fields):
    fields["response_format"] = {"type": "text"} if fields.get("tool_choice") != "auto" else None
    assert post(tgi, CHAT, chat(**fields)).status_code == 200


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, {"prompt": ["hi", "ho"]})])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"presence_penalty": 3}, "presence_penalty must be between -2 and 2, got 3.0"),
        ({"logit_bias": {"999": 1}}, "logit_bias holds 999; token ids go from 0 to 259"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ],
    ids=str,
)
def test_errors_within_the_stream(tgi, path, body, fields, message):
    """Once the headers are sent, every error is one event of this shape, with this code."""
    text = f"Input validation error: {message}"
    response = post(tgi, path, body | fields)
    assert (response.status_code, response.json()) == (422, {"error": text, "error_type": "validation"})
    in_stream = {"error": {"message": text, "http_status_code": 422}}
    assert events(post(tgi, path, body | fields | {"stream": True})) == [in_stream, "[DONE]"]


def test_overload_and_failure(serve):
    for path, body in ((CHAT, chat()), (COMPLETIONS, {"prompt": "hi"})):
        overloaded = serve(FakeLLM(overloaded=True), dialect="tgi")
        error = {"error": "Model is overloaded", "error_type": "overloaded"}
        response = post(overloaded, path, body)
        assert (response.status_code, response.json()) == (429, error)
        in_stream = {"error": {"message": "Model is overloaded", "http_status_code": 422}}
        assert events(post(overloaded, path, body | {"stream": True})) == [in_stream, "[DONE]"]
        failing = serve(FakeLLM(fail_after=2), dialect="tgi")
        assert post(failing, path, body).status_code == 424
        got = events(post(failing, path, body | {"stream": True}))[2:]
        message = "Request failed during generation: the engine died"
        assert got == [{"error": {"message": message, "http_status_code": 422}}, "[DONE]"]


def test_completions_golden(tgi, tgi_llm):
    response = post(tgi, COMPLETIONS, {"prompt": ["hi", "you"], "max_tokens": 2})
    choice = {"text": "Li", "logprobs": None, "finish_reason": "length"}
    assert answered(response) == {
        **head("text_completion"),
        "choices": [{"index": 0, **choice}, {"index": 1, **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }
    assert [request.prompt[0] for request in tgi_llm.requests] == [BOS, BOS]
    headers = response.headers
    assert (headers["x-compute-characters"], headers["x-prompt-tokens"], headers["x-generated-tokens"]) == (
        "5",
        "7",
        "4",
    )
    assert "x-compute-time" not in headers and headers["x-total-time"].isdigit()


def test_completions_stream_golden(tgi):
    """Transcript A4 of the reference, but for what OpenAI's clients would stumble at."""
    response = post(tgi, COMPLETIONS, {"prompt": ["hi", "you"], "max_tokens": 2, "stream": True})
    *chunks, done = events(response)
    assert done == "[DONE]"
    for index, prompt_tokens in ((0, 3), (1, 4)):
        first, last = (timeless(one) for one in chunks if one["choices"][0]["index"] == index)
        choice = {"index": index, "logprobs": None}
        assert first == {
            **head("text_completion"),
            "choices": [{**choice, "text": "L", "finish_reason": None}],
        }
        assert last == {
            **head("text_completion"),
            "choices": [{**choice, "text": "i", "finish_reason": "length"}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": prompt_tokens + 2},
        }


@pytest.mark.parametrize("fields", [{}, {"stop": ["ran"]}, {"max_tokens": 15}], ids=str)
def test_completion_streams_add_up(tgi, fields):
    whole = answered(post(tgi, COMPLETIONS, {"prompt": ["a", "b", "c", "d"], **fields}))
    *chunks, _ = events(post(tgi, COMPLETIONS, {"prompt": ["a", "b", "c", "d"], "stream": True, **fields}))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    for choice in whole["choices"]:
        own = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
    assert sum(one["usage"]["total_tokens"] for one in chunks if "usage" in one) == whole["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (
            {"suffix": "x"},
            "suffix not supported",
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
        ),
        (
            {"prompt": ["a"] * 5},
            "batch size exceeded",
            "Number of prompts exceeds the maximum allowed batch size of 4",
        ),
        ({"n": 2}, "validation", "Input validation error: n is not supported by this server: "),
        ({"echo": True}, "validation", "Input validation error: echo is not supported by this server: "),
        ({"logprobs": 1}, "validation", "Input validation error: logprobs is not supported by this server: "),
        ({"prompt": ""}, "validation", "Input validation error: `inputs` cannot be empty"),
    ],
    ids=str,
)
def test_completions_refused(tgi, fields, kind, message):
    response = post(tgi, COMPLETIONS, {"prompt": "hi"} | fields)
    assert response.status_code == 422 and response.json()["error_type"] == kind
    assert response.json()["error"].startswith(message)


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (COMPLETIONS, {}, "Object missing required field `prompt`"),
        (COMPLETIONS, {"prompt": []}, "Empty array detected. Do not use an empty array for the prompt."),
        (COMPLETIONS, {"prompt": [1, 2]}, "Expected `str`, got `int` - at `$.prompt[0]`"),
        (CHAT, {}, "Object missing required field `messages`"),
        (CHAT, chat(logit_bias=[1.0]), "Expected `object | null`, got `array` - at `$.logit_bias`"),
    ],
)
def test_bodies_of_another_shape(tgi, path, body, text):
    response = post(tgi, path, body)
    assert response.status_code == 422 and response.headers["content-type"].startswith("text/plain")
    assert response.text == f"Failed to deserialize the JSON body into the target type: {text}"


VALUES = st.sampled_from(
    [
        *(-1, 0, 1, 2, 2**63, -(2**63), 10**30, 5e-324, 0.5, 1e308, -1e308, None, True, "", "x", "9" * 999),
        *([], [1], [None], [""], ["x"], {}, {"1": 1e39}, {"a": 1}, [{}], [{"role": 1}], [{"role": "assistant"}]),
        [{"role": "user", "content": [{"type": "text"}, 1]}],
    ]
)


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [(CHAT, chat(), ChatBody), (COMPLETIONS, {"prompt": "hi"}, CompletionBody), ("/chat_tokenize", chat(), ChatBody)],
)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_asked_for(tgi, path, body, shape, data):
    """Any request is answered or refused."""
    names = st.sampled_from(shape.__struct_fields__)
    fields = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=3))
    response = post(tgi, path, body | fields)
    assert response.status_code in (200, 422), response.text
    assert "Traceback" not in response.text and "internal server error" not in response.text
