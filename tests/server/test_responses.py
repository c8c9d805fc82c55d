"""OpenAI's Responses API: wire shapes against a fake engine, and its own client."""

from __future__ import annotations

import math

import openai
import pytest

from tests.server.conftest import running
from tests.server.fake_llm import ANSWER, EOS, FakeLLM
from tests.server.wire import client as http
from tests.server.wire import get, named_events, post, until
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.sampling.params import LLAMACPP_STAGES

PATH = "/v1/responses"
PROMPT = "user: hi\nassistant: "
LOGPROBS = {"include": ["message.output_text.logprobs"]}


def body(**fields):
    return {"model": "fake", "input": "hi", **fields}


def said(role, text, **fields):
    return {"role": role, "content": text, **fields}


def prompt(llm):
    """The text of the last prompt that the engine was given."""
    return llm.tokenizer.decode(llm.requests[-1].prompt)


def text_of(response):
    return response["output"][0]["content"][0]["text"]


def golden(status="incomplete", **news):
    usage = {
        "input_tokens": len(PROMPT),
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": len(PROMPT) + 2,
    }
    part = {"type": "output_text", "text": "Li", "annotations": [], "logprobs": []}
    item = {"type": "message", "status": status, "role": "assistant", "content": [part]}
    return {
        "object": "response",
        "status": status,
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"},
        "instructions": None,
        "max_output_tokens": 2,
        "max_tool_calls": None,
        "model": "fake",
        "output": [item],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
        **news,
    }


def without_ids(response):
    """A response without what is different each time."""
    assert response.pop("id").startswith("resp_") and response.pop("created_at") > 1.7e9
    for item in response["output"]:
        assert item.pop("id").startswith("msg_")
    return response


@pytest.mark.parametrize("path", [PATH, "/responses"])
def test_response(url, path):
    assert without_ids(post(url, path, body(max_output_tokens=2)).json()) == golden()


def test_response_that_ends(url):
    response = post(url, PATH, body(stop=["ran"], metadata={"a": "b"}, user="u", top_p=0.5, temperature=0)).json()
    assert (response["status"], text_of(response)) == ("completed", ANSWER.partition("ran")[0])
    assert response["output"][0]["status"] == "completed" and response["incomplete_details"] is None
    assert response["completed_at"] >= response["created_at"]
    assert (response["metadata"], response["user"]) == ({"a": "b"}, "u")
    assert (response["temperature"], response["top_p"]) == (0.0, 0.5)


def test_events(url):
    created, begun, added, part_added, *deltas, text_done, part_done, done, end = named_events(
        post(url, PATH, body(max_output_tokens=2, stream=True))
    )
    events = [created, begun, added, part_added, *deltas, text_done, part_done, done, end]
    assert [event.pop("sequence_number") for event in events] == list(range(10))
    item_id = added["item"]["id"]
    where = {"item_id": item_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "Li", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": item_id, "status": "incomplete", "role": "assistant", "content": [part]}
    assert created["response"] == begun["response"] and created["response"]["id"] == end["response"]["id"]
    empty = golden("in_progress", output=[], usage=None, incomplete_details=None)
    assert without_ids(begun["response"]) == empty
    assert end["response"]["output"] == [item]
    assert without_ids(end["response"]) == golden()
    kinds = [event.pop("type").removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    assert added == {"output_index": 0, "item": item | {"status": "in_progress", "content": []}}
    assert part_added == where | {"part": part | {"text": ""}}
    assert deltas == [where | {"delta": piece, "logprobs": []} for piece in "Li"]
    assert text_done == where | {"text": "Li", "logprobs": []}
    assert part_done == where | {"part": part}
    assert done == {"output_index": 0, "item": item}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_output_tokens": 3, **LOGPROBS, "top_logprobs": 2},
        {"stop": "ran", **LOGPROBS},
        {"instructions": "be brief", "top_logprobs": 1, "seed": 1},
    ],
)
def test_a_stream_is_the_whole(url, fields):
    whole = post(url, PATH, body(**fields)).json()
    events = named_events(post(url, PATH, body(stream=True, **fields)))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    [part] = whole["output"][0]["content"]
    assert "".join(event["delta"] for event in deltas) == part["text"]
    assert [one for event in deltas for one in event["logprobs"]] == part["logprobs"]
    assert bool(part["logprobs"]) == bool(fields.keys() & {"include", "top_logprobs"})
    final = events[-1]["response"]
    assert get(url, f"{PATH}/{final['id']}").json() == final
    assert get(url, f"{PATH}/{whole['id']}").json() == whole
    for response in (whole, final):
        assert response.pop("completed_at", None) or response["status"] == "incomplete"
    assert without_ids(final) == without_ids(whole)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"instructions": "be brief"}, "system: be brief\n" + PROMPT),
        ({"input": [said("user", "hi")]}, PROMPT),
        ({"input": [said("user", [{"type": "input_text", "text": "hi"}], type="message")]}, PROMPT),
        (
            {"input": [said("developer", "be"), said("user", "hi")], "instructions": "do"},
            "system: do\nbe\n" + PROMPT,
        ),
        (
            {"input": [said("user", "hi"), said("assistant", "ho", id="m", status="completed"), said("user", "hi")]},
            PROMPT + "ho\n" + PROMPT,
        ),
        (
            {
                "input": [
                    said("assistant", [{"type": "refusal", "refusal": "no"}, {"type": "output_text", "text": "o"}])
                ]
            },
            "assistant: no\no\nassistant: ",
        ),
        ({"reasoning": {"effort": "none", "summary": None}, "text": {"format": {"type": "text"}}}, PROMPT),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}, PROMPT),
    ],
)
def test_prompts(url, llm, fields, expected):
    assert text_of(post(url, PATH, body(**fields)).json()) == ANSWER
    assert prompt(llm) == expected
    for path in (PATH, "/responses"):
        counted = post(url, path + "/input_tokens", body(**fields)).json()
        assert counted == {"object": "response.input_tokens", "input_tokens": len(expected)}


def test_options(url, llm):
    fields = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.25,
        "min_p": 0.1,
        "seed": 3,
        "stop": ["zz"],
        "ignore_eos": True,
    }
    others = {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "presence_penalty": 0.25, "logit_bias": {"1": 2}}
    more = {"priority": 4, "cache_salt": "s", "max_output_tokens": 9, "request_id": "resp_1", "store": False}
    assert post(url, PATH, body(**fields, **others, **more)).json()["id"] == "resp_1"
    request = llm.requests[-1]
    for name, value in (fields | others | {"logit_bias": {1: 2.0}, "max_tokens": 9}).items():
        assert getattr(request.params, name) == value
    assert (request.priority, request.cache_salt) == (4, "s")


@pytest.mark.parametrize(("turns", "kept"), [(1, 1), (3, 3), (4, 3), (9, 3)])
def test_truncation(url, llm, turns, kept):
    """As many of the last turns as fit into 256 tokens, and the system's message before them."""
    texts = [str(turn) * 50 for turn in range(turns)]
    turn_items = [one for text in texts for one in (said("user", text), said("assistant", "ok"))]
    items = [said("system", "be brief"), *turn_items[:-1]]
    response = post(url, PATH, body(input=items, truncation="auto", max_output_tokens=1)).json()
    assert response["truncation"] == "auto"
    assert prompt(llm) == ("system: be brief\nuser: " + "\nassistant: ok\nuser: ".join(texts[-kept:]) + "\nassistant: ")
    whole = post(url, PATH, body(input=items, max_output_tokens=1))
    assert whole.status_code == (200 if turns == kept else 400)


def test_truncation_of_one_that_is_too_long(url):
    response = post(url, PATH, body(input="x" * 300, truncation="auto"))
    assert response.status_code == 400 and "maximum context length is 256" in response.json()["error"]["message"]


def test_conversation_goes_on(url, llm):
    first = post(url, PATH, body(instructions="be brief", max_output_tokens=2)).json()
    second = post(url, PATH, body(input="more", previous_response_id=first["id"])).json()
    assert prompt(llm) == PROMPT + "Li\nuser: more\nassistant: "
    assert second["previous_response_id"] == first["id"]
    assert http.delete(f"{url}{PATH}/{first['id']}").json() == {
        "id": first["id"],
        "object": "response",
        "deleted": True,
    }
    post(url, PATH, body(input="!", previous_response_id=second["id"], store=False))
    assert prompt(llm) == f"{PROMPT}Li\nuser: more\nassistant: {ANSWER}\nuser: !\nassistant: "
    listed = get(url, f"{PATH}/{second['id']}/input_items").json()
    assert [(item["role"], item["content"][0]["text"]) for item in listed["data"]] == [
        ("user", "more"),
        ("assistant", "Li"),
        ("user", "hi"),
    ]
    assert [part["type"] for item in listed["data"] for part in item["content"]] == [
        *("input_text", "output_text", "input_text")
    ]
    counted = post(url, PATH + "/input_tokens", body(input="more", previous_response_id=second["id"])).json()
    assert counted["input_tokens"] > len(ANSWER)


def test_input_items(url):
    given = [said("user", str(i), id=f"item_{i}") for i in range(5)]
    response_id = post(url, PATH, body(input=given)).json()["id"]

    def page(**query):
        found = get(url, f"{PATH}/{response_id}/input_items", params=query).json()
        ids = [item["id"] for item in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return "".join(one[-1] for one in ids), found["has_more"]

    assert page() == ("43210", False)
    assert page(order="asc", limit=2) == ("01", True)
    assert page(order="asc", after="item_1", limit=3) == ("234", False)
    assert page(after="item_0") == ("", False)
    for query in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"include": "x"}):
        assert get(url, f"{PATH}/{response_id}/input_items", params=query).status_code == 400
    assert get(url, f"{PATH}/{response_id}/input_items", params={"after": "x"}).status_code == 404


def test_nothing_is_kept_that_is_not_wanted(url):
    response_id = post(url, PATH, body(store=False)).json()["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        response = http.request(method, f"{url}{PATH}/{response_id}{path}")
        assert response.status_code == 404
        message = f"Response with id '{response_id}' not found."
        assert response.json()["error"] == {
            "message": message,
            "type": "NotFoundError",
            "param": "response_id",
            "code": 404,
        }
    response = post(url, PATH, body(previous_response_id=response_id))
    assert response.status_code == 404 and response.json()["error"]["param"] == "previous_response_id"


def test_failures(serve):
    url = serve(FakeLLM(fail_after=2))
    failed = named_events(post(url, PATH, body(stream=True, background=True)))[-1]
    assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
    assert post(url, PATH, body()).status_code == 500
    *events, failed = named_events(post(url, PATH, body(stream=True)))
    assert [event["sequence_number"] for event in [*events, failed]] == list(range(7))
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert get(url, f"{PATH}/{failed['response']['id']}").json() == failed["response"]
    queued = post(url, PATH, body(background=True)).json()["id"]
    until(lambda: get(url, f"{PATH}/{queued}").json()["status"] == "failed")
    url = serve(FakeLLM(overloaded=True))
    for mode in ("stream", "background"):
        response = post(url, PATH, body(**{mode: True}))
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"content": "x"}]}, "input"),
        ({"input": [said("tool", "x")]}, "input[0].role"),
        ({"input": [said("user", [{"type": "input_image", "image_url": "x"}])]}, "input"),
        ({"input": [said("user", [{"type": "input_text"}])]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 257}, "max_output_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -2}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"truncation": "left"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"background": True, "store": False}, "background"),
        ({"request_id": "1"}, "request_id"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_refused(url, fields, parameter):
    response = post(url, PATH, body(**fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == parameter and error["code"] == 400


@pytest.mark.parametrize("fields", [{"tools": [{}]}, {"reasoning": {"effort": "low"}}, {"input": []}, {"input": 3}])
def test_refused_to_count(url, fields):
    assert post(url, PATH + "/input_tokens", body(**fields)).status_code == 400


def test_ids_are_used_once(url):
    asked = body(request_id="resp_once", max_output_tokens=1)
    assert post(url, PATH, asked).status_code == 200
    assert post(url, PATH, asked).json()["error"]["param"] == "request_id"
    stored = get(url, f"{PATH}/resp_once", params={"stream": "true", "starting_after": 3})
    assert stored.status_code == 400 and stored.json()["error"]["param"] == "stream"
    assert post(url, PATH, body(model="other")).status_code == 404


@pytest.mark.parametrize("path", [PATH, "/responses"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"temperature": 0.5, "top_k": 40, "top_p": 0.95, "stop": ["Q:"], "max_tokens": 9, "logprobs": None}),
        (
            {"temperature": 1.5, "max_output_tokens": 3, **LOGPROBS},
            {"temperature": 1.5, "max_tokens": 3, "logprobs": 0},
        ),
        ({"repetition_penalty": 1.5, "top_k": -5, "stop": "x"}, {"repetition_penalty": 1.5, "top_k": 0, "stop": ["x"]}),
        ({"logit_bias": {"7": 1}, "seed": 5, "ignore_eos": True}, {"logit_bias": {7: 1, EOS: -math.inf}, "seed": 5}),
        ({"include_stop_str_in_output": True}, {"include_stop_str_in_output": True, "skip_special_tokens": True}),
    ],
)
def test_the_sampling_of_llama_server(serve, path, fields, expected):
    """Its own defaults, those of its flags and the request's fields, one over the other."""
    llm = FakeLLM()
    defaults = {"temperature": 0.5, "stop": "Q:", "xtc_probability": 0.5}
    response = post(serve(llm, dialect="llamacpp", sampling_defaults=defaults, n_predict=9), path, body(**fields))
    assert response.status_code == 200, response.text
    [request] = llm.requests
    expected = {"min_p": 0.05, "penalty_last_n": 64, "xtc_probability": 0.5, "stages": LLAMACPP_STAGES} | expected
    assert {name: getattr(request.params, name) for name in expected} == expected
    assert response.json()["temperature"] == request.params.temperature


def test_errors_are_llama_server_s(serve):
    error = post(serve(FakeLLM(), dialect="llamacpp"), PATH, body(logit_bias={"9999": 1})).json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")


@pytest.fixture(scope="module")
def built_in():
    with (
        running(AsyncLLM(EngineArgs())) as address,
        openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_client(built_in):
    asked = {"model": "shakespeare", "input": "Who comes?", "temperature": 0, "max_output_tokens": 30}
    whole = built_in.responses.create(**asked)
    assert whole.output_text.strip()
    events = list(built_in.responses.create(**asked, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens == 30
    assert events[-1].type == "response.incomplete"
    assert built_in.responses.retrieve(whole.id) == whole
    again = built_in.responses.create(**asked | {"previous_response_id": whole.id, "input": "And who else?"})
    history = [item.to_dict() for item in built_in.responses.input_items.list(again.id, order="asc", limit=2)]
    assert [item["role"] for item in history] == ["user", "assistant", "user"]
    stateless = built_in.responses.create(**asked | {"input": history})
    assert stateless.output_text == again.output_text
    counted = built_in.responses.input_tokens.count(model="shakespeare", input=history)
    assert counted.input_tokens == again.usage.input_tokens
    built_in.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        built_in.responses.retrieve(whole.id)
    with pytest.raises(openai.BadRequestError, match=r"reasoning\.effort is not supported"):
        built_in.responses.create(**asked, reasoning={"effort": "high"})


def test_client_stream_helper(built_in):
    """It wants a response that ends of itself."""
    asked = {"model": "shakespeare", "input": "Who comes?", "temperature": 0, "max_output_tokens": 60}
    with built_in.responses.stream(**asked, extra_body={"stop": ["e"]}) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert final.status == "completed"


def test_client_background(built_in):
    asked = {"model": "shakespeare", "input": "Who comes?", "max_output_tokens": 5, "background": True}
    response = built_in.responses.create(**asked)
    assert response.status == "queued"
    until(lambda: built_in.responses.retrieve(response.id).status == "incomplete")
    assert built_in.responses.cancel(response.id).status == "incomplete"


def test_client_leaves(serve):
    llm = FakeLLM(delay=0.05)
    client = openai.OpenAI(base_url=serve(llm) + "/v1", api_key="none", max_retries=0)
    with client.responses.create(model="fake", input="hi", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    until(lambda: llm.engine.cancelled == 1 and not llm.engine.running)
