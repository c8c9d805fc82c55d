"""Anthropic's Messages API: wire shapes against a fake engine, and its own client."""

from __future__ import annotations

import anthropic
import pytest

from tests.server.conftest import running
from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM
from tests.server.wire import client, get, named_events, post, until
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.sampling.params import LLAMACPP_STAGES
from trivet.server.options import ServerOptions

PATH = "/v1/messages"
USER = {"role": "user", "content": "hi"}
PROMPT = "user: hi\nassistant: "


def body(**fields):
    return {"model": "fake", "max_tokens": 100, "messages": [USER], **fields}


def text(*texts, **fields):
    return [{"type": "text", "text": one, **fields} for one in texts]


def prompt(llm):
    """The text of the last prompt that the engine was given."""
    return llm.tokenizer.decode(llm.requests[-1].prompt)


def usage(prompt_tokens, output_tokens):
    cached = prompt_tokens // 16
    return {
        "input_tokens": prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
    }


def test_message(url):
    response = post(url, PATH, body(), headers={"anthropic-version": "2023-06-01", "X-Request-Id": "r1"})
    assert response.json() == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage(len(PROMPT), len(TOKENS)),
    }
    assert response.headers["request-id"] == "r1"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", PATH, 405, "invalid_request_error"), ("POST", PATH + "/batches", 404, "not_found_error")],
)
def test_what_is_not_there(url, method, path, status, kind):
    """Its clients get its errors on all paths: their header tells them."""
    response = client.request(method, url + path, headers={"anthropic-version": "2023-06-01"})
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert response.json()["request_id"] == response.headers["request-id"]


def test_an_unknown_path_without_the_header(url):
    assert "code" in post(url, PATH + "/batches", {}).json()["error"]


def test_events(url):
    start, *events = named_events(post(url, PATH + "?beta=true", body(max_tokens=2, stream=True)))
    assert start["message"].pop("id").startswith("msg_")
    assert start == {
        "type": "message_start",
        "message": {
            "type": "message",
            "role": "assistant",
            "model": "fake",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(len(PROMPT), 1),
        },
    }
    assert events == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "L"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "i"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": usage(len(PROMPT), 2),
        },
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"max_tokens": 3}, "max_tokens", None),
        ({"stop_sequences": ["never", "ran"]}, "stop_sequence", "ran"),
        ({"messages": [{"role": "user", "content": "x" * 232}]}, "model_context_window_exceeded", None),
    ],
)
def test_a_stream_is_the_whole(url, fields, reason, sequence):
    whole = post(url, PATH, body(**fields)).json()
    events = named_events(post(url, PATH, body(stream=True, **fields)))
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == whole["content"][0]["text"] and "" not in deltas
    assert events[-2]["usage"] == whole["usage"]
    assert events[-2]["delta"] == {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"system": "be brief"}, "system: be brief\n" + PROMPT),
        ({"system": text("be", "brief", cache_control={"type": "ephemeral"})}, "system: be\nbrief\n" + PROMPT),
        ({"system": text("x-anthropic-billing-header: cch=1;", "be brief")}, "system: be brief\n" + PROMPT),
        ({"system": "x-anthropic-billing-header: a\nbe\nbrief"}, "system: be\nbrief\n" + PROMPT),
        ({"system": ""}, PROMPT),
        ({"messages": [{"role": "user", "content": text("h", "i")}]}, "user: h\ni\nassistant: "),
        ({"messages": [USER, USER]}, "user: hi\nhi\nassistant: "),
        ({"messages": [USER, {"role": "assistant", "content": "Li"}]}, PROMPT + "Li"),
        ({"messages": [USER, {"role": "assistant", "content": text("L", "i ")}]}, PROMPT + "L\ni "),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, PROMPT),
        (
            {"messages": [USER, {"role": "assistant", "content": text("ho")}, {"role": "system", "content": "!"}]},
            PROMPT + "ho\nsystem: !\nassistant: ",
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "?"}, *text("ho")]},
                    USER,
                ]
            },
            PROMPT + "ho\n" + PROMPT,
        ),
    ],
)
def test_prompts(url, llm, fields, expected):
    """What is sent, what is counted, and that an assistant's last turn is gone on with."""
    assert post(url, PATH, body(**fields)).json()["content"][0]["text"] == ANSWER
    assert prompt(llm) == expected
    counted = body(**fields)
    del counted["max_tokens"]
    assert post(url, PATH + "/count_tokens", counted).json() == {"input_tokens": len(expected)}


def test_options(url, llm):
    fields = {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "stop_sequences": ["zz"], "max_tokens": 9}
    assert post(url, PATH, body(**fields)).status_code == 200
    params = llm.requests[-1].params
    assert (params.temperature, params.top_k, params.top_p, params.stop) == (0.5, 7, 0.25, ["zz"])
    assert params.max_tokens == 9


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": {"type": "disabled"}, "tools": [], "tool_choice": {"type": "auto"}, "mcp_servers": []},
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}},
        {"system": None, "stop_sequences": [], "stream": False, "temperature": None, "speed": "standard"},
    ],
)
def test_accepted(url, fields):
    assert post(url, PATH, body(**fields)).json()["content"][0]["text"] == ANSWER


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: must be between 1 and 256"),
        ({"max_tokens": 257}, "maximum allowed number of output tokens for fake"),
        ({"max_tokens": "9"}, "Expected `int`, got `str` - at `$.max_tokens`"),
        ({"temperature": 1.5}, "temperature: must be between 0 and 1"),
        ({"top_p": 0}, "top_p must be greater than 0"),
        ({"top_k": -5}, "top_k must be"),
        ({"stop_sequences": ["a"] * 5}, "stop_sequences: must be at most 4"),
        ({"stop_sequences": [""]}, "stop_sequences: must be at most 4 non-empty strings"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "Invalid enum value 'tool' - at `$.messages[0].role`"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0: a block",
        ),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}]}, "'tool_use' is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": ""}]}]}, "'thinking'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a text block without text"),
        ({"system": [{"type": "document"}]}, "system.0: a block of type 'document'"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking is not supported by this server: thoughts",
        ),
        ({"tools": [{"name": "f"}]}, "tools is not supported"),
        ({"tool_choice": {"type": "any"}}, "tool_choice is not supported"),
        ({"output_config": {"effort": "low"}}, "output_config is not supported"),
        ({"container": "c"}, "container is not supported"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers is not supported"),
        ({"speed": "fast"}, "speed is not supported"),
        ({"max_token": 1}, "unknown field `max_token`"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "prompt is too long: 318 tokens > 255 maximum"),
    ],
)
def test_refused(url, fields, message):
    response = post(url, PATH, body(**fields), headers={"X-Request-Id": "r2"})
    error = response.json()
    assert response.status_code == 400
    assert message in error["error"].pop("message")
    assert error == {"type": "error", "error": {"type": "invalid_request_error"}, "request_id": "r2"}


@pytest.mark.parametrize("fields", [{"tools": [{}]}, {"messages": []}, {"max_tokens": 3}, {"model": None}])
def test_refused_to_count(url, fields):
    response = post(url, PATH + "/count_tokens", {"model": "fake", "messages": [USER], **fields})
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "headers", "status", "kind"),
    [
        (b"{", {}, 400, "invalid_request_error"),
        (b'{"model": "fake", "messages": []}', {}, 400, "invalid_request_error"),
        (b"{}", {"content-type": "text/plain"}, 400, "invalid_request_error"),
        (b" " * 2000, {}, 413, "request_too_large"),
        (b"{}", {"x-api-key": "k2"}, 401, "authentication_error"),
    ],
)
def test_requests_that_are_none(serve, content, headers, status, kind):
    url = serve(FakeLLM(), api_keys=("k1",), payload_limit=1000)
    headers = {"content-type": "application/json", "x-api-key": "k1", **headers}
    response = post(url, PATH, None, content=content, headers=headers)
    assert response.status_code == status
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == kind


@pytest.fixture(scope="module")
def llama_server():
    llm = FakeLLM(max_model_len=5000)
    with running(llm, ServerOptions(dialect="llamacpp")) as address:
        yield address, llm


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, 4096),
        ({"max_tokens": None, "model": None}, 4096),
        ({"max_tokens": 9, "model": "claude-0", "stop_sequences": [""] + ["zz"] * 9, "temperature": 1.5}, 9),
        ({"max_tokens": 9000, "max_token": 1}, 5000 - len(PROMPT)),
        ({"max_tokens": -1}, 5000 - len(PROMPT)),
    ],
)
def test_as_llama_server_has_it(llama_server, fields, max_tokens):
    """It asks for nothing but messages, and ignores what it does not know."""
    url, llm = llama_server
    assert post(url, PATH, {"messages": [USER], **fields}).json()["model"] == "fake"
    assert llm.requests[-1].params.max_tokens == max_tokens
    counted = post(url, PATH + "/count_tokens", {"messages": [USER], **fields})
    assert counted.json() == {"input_tokens": len(PROMPT)}


def test_ends_and_errors_as_llama_server_has_them(llama_server):
    url, _ = llama_server
    stopped = post(url, PATH, {"messages": [USER], "stop_sequences": ["ran"]}).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("end_turn", "ran")
    for path in (PATH, PATH + "/count_tokens"):
        error = post(url, path, {"messages": [USER], "tools": [{}]}).json()["error"]
        assert (error["code"], error["type"]) == (400, "invalid_request_error")


def test_the_limit_of_llama_server(serve):
    llm = FakeLLM()
    answer = post(serve(llm, dialect="llamacpp", n_predict=5), PATH, {"messages": [USER]}).json()
    assert (answer["stop_reason"], llm.requests[-1].params.max_tokens) == ("max_tokens", 5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"temperature": 0.5, "top_k": 40, "top_p": 0.95, "stop": ["Q:"]}),
        ({"temperature": 1.5, "top_k": 7, "top_p": 0.5}, {"temperature": 1.5, "top_k": 7, "top_p": 0.5}),
        ({"temperature": -1, "top_p": 2, "stop_sequences": ["x"]}, {"temperature": 0, "top_p": 1, "stop": ["x"]}),
    ],
)
def test_the_sampling_of_llama_server(serve, fields, expected):
    """Its own defaults, those of its flags and the request's fields, one over the other."""
    llm = FakeLLM()
    url = serve(llm, dialect="llamacpp", sampling_defaults={"temperature": 0.5, "stop": "Q:", "xtc_probability": 0.5})
    for _ in range(2):
        assert post(url, PATH, {"messages": [USER], **fields}).status_code == 200
    always = {"min_p": 0.05, "penalty_last_n": 64, "xtc_probability": 0.5, "stages": LLAMACPP_STAGES}
    params = [request.params for request in llm.requests]
    for name, value in (always | expected).items():
        assert getattr(params[0], name) == value, name
    assert params[0].seed != params[1].seed


def test_failures(serve):
    url = serve(FakeLLM(fail_after=2))
    response = post(url, PATH, body())
    assert response.status_code == 500 and response.json()["error"]["type"] == "api_error"
    *events, error = named_events(post(url, PATH, body(stream=True)))
    assert [event["type"] for event in events][-2:] == ["content_block_delta"] * 2
    assert error["error"]["type"] == "api_error" and error["request_id"]
    response = post(serve(FakeLLM(overloaded=True)), PATH, body(stream=True))
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_models(serve):
    llm = FakeLLM()
    llm.args.served_model_name = ["a", "b", "c"]
    url = serve(llm)

    def page(**query):
        found = get(url, "/v1/models", params=query, headers={"anthropic-version": "2023-06-01"}).json()
        assert (found["first_id"], found["last_id"]) == (found["data"][0]["id"], found["data"][-1]["id"])
        return [one["id"] for one in found["data"]], found["has_more"]

    assert page() == (["a", "b", "c"], False)
    assert page(limit=2) == (["a", "b"], True)
    assert page(limit=2, after_id="a") == (["b", "c"], False)
    assert page(limit=1, before_id="c") == (["b"], True)
    assert get(url, "/v1/models").json()["object"] == "list"
    assert "object" not in get(serve(FakeLLM(), dialect="anthropic"), "/v1/models").json()
    headers = {"anthropic-version": "2023-06-01"}
    for query, status in (({"limit": 0}, 400), ({"limit": "x"}, 400), ({"after_id": "z"}, 404)):
        response = get(url, "/v1/models", params=query, headers=headers)
        assert response.status_code == status and response.json()["type"] == "error"
    assert get(url, "/v1/models/z", headers=headers).json()["error"]["type"] == "not_found_error"
    assert list(anthropic.Anthropic(base_url=url, api_key="none").models.list(limit=1))[2].id == "c"


@pytest.fixture(scope="module")
def built_in():
    with running(AsyncLLM(EngineArgs())) as address, anthropic.Anthropic(base_url=address, api_key="none") as client:
        yield client


ASKED = {"model": "shakespeare", "max_tokens": 40, "messages": [{"role": "user", "content": "Who comes?"}]}


@pytest.mark.parametrize("fields", [{}, {"system": "Speak.", "stop_sequences": ["\n"]}])
def test_client(built_in, fields):
    asked = ASKED | fields | {"extra_body": {"temperature": 0}}
    whole = built_in.messages.create(**asked)
    with built_in.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    total = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert final.usage.output_tokens == whole.usage.output_tokens <= 40
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == total
    counted = built_in.messages.count_tokens(
        **{key: asked[key] for key in asked.keys() & {"model", "messages", "system"}}
    )
    assert counted.input_tokens == total
    assert whole.id == f"msg_{whole._request_id}"


def test_client_beta(built_in):
    whole = built_in.beta.messages.create(**ASKED, betas=["prompt-caching-2024-07-31"], metadata={"user_id": "u"})
    assert whole.content[0].type == "text" and whole.stop_reason in ("max_tokens", "end_turn")
    assert built_in.models.retrieve("shakespeare").max_input_tokens > 0


def test_client_errors(built_in):
    with pytest.raises(anthropic.NotFoundError, match="does not exist") as caught:
        built_in.messages.create(**ASKED | {"model": "claude-0"})
    assert caught.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="tools is not supported"):
        built_in.messages.create(**ASKED, tools=[{"name": "f", "input_schema": {"type": "object"}}])


def test_client_leaves(serve):
    llm = FakeLLM(delay=0.05)
    client = anthropic.Anthropic(base_url=serve(llm, api_keys=("k1",)), auth_token="k1", max_retries=0)
    with client.messages.create(**body(), stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    until(lambda: llm.engine.cancelled == 1 and not llm.engine.running)
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.create(**body(), timeout=0.2)
    until(lambda: llm.engine.cancelled == 2 and not llm.engine.running)
