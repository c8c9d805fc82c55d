from __future__ import annotations

import pytest

from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM
from tests.server.wire import chat, events, post

CHAT = "/v1/chat/completions"
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well,"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def prompt_of(llm):
    return bytes(llm.requests[-1].prompt).decode()


def test_to_the_end_by_default(url):
    body = post(url, CHAT, chat()).json()
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len(TOKENS)


@pytest.mark.parametrize("name", ["fake", None, "", "tgi", "dummy"])
def test_known_models(url, name):
    response = post(url, CHAT, chat(max_tokens=1) | {"model": name})
    assert response.status_code == 200 and response.json()["model"] == "fake"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "tool_choice": "none", "response_format": {"type": "text"}, "bad_words": []},
        {"user": "me", "metadata": {"a": 1}, "store": True, "unknown_field": [1], "service_tier": "auto"},
        {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "typical_p": 0.9, "best_of": 1},
        {"logit_bias": {"50": -100}, "stop_token_ids": [7], "ignore_eos": True, "min_tokens": 1},
        {"temperature": None, "top_p": None, "n": None, "stop": None, "stream": None, "max_tokens": 4},
        {"spaces_between_special_tokens": False, "length_penalty": 2, "parallel_tool_calls": False},
        {"max_tokens": "5", "temperature": "0.5", "top_k": 4.0, "stream": "false", "logprobs": 1},
        {"thinking_token_budget": -1, "include_reasoning": True, "modalities": ["text"], "use_beam_search": False},
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
    assert prompt_of(llm) == "user: hi\nassistant: "


@pytest.mark.parametrize(("given", "used"), [(1e-6, 1e-6), (0.001, 0.01), (0.01, 0.01), (1.5, 1.5)])
def test_low_temperatures(url, llm, given, used):
    post(url, CHAT, chat(max_tokens=1, temperature=given))
    assert llm.requests[0].params.temperature == used


def test_what_the_template_gets(url, llm, monkeypatch):
    seen = []

    def render(self, messages, tools, **variables):
        seen.append((messages, tools, variables))
        return "x"

    monkeypatch.setattr(type(llm.chat_template), "render", render)
    given = {"reasoning_effort": "none", "chat_template_kwargs": {"k": 1}, "documents": [{"a": 1}]}
    fields = {"add_generation_prompt": False, "tools": [TOOL], "tool_choice": "none", **given}
    assert post(url, CHAT, chat(max_tokens=1, **fields)).status_code == 200
    [(messages, tools, variables)] = seen
    assert messages == [{"role": "user", "content": "hi"}] and tools == [TOOL]
    assert variables == {
        "add_generation_prompt": False,
        "continue_final_message": False,
        "documents": [{"a": 1}],
        "reasoning_effort": "none",
        "enable_thinking": False,
        "k": 1,
        "merge_developers": True,
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "input_text", "text": "a"}, "b", {"text": "c"}], "a\nb\nc"),
        ([{"type": "refusal", "refusal": "no"}, {"type": "thinking", "thinking": "hm"}], "no\nhm"),
        (None, ""),
    ],
)
def test_content_parts(url, llm, content, text):
    messages = [{"role": "developer", "content": content}]
    assert post(url, CHAT, chat(messages=messages, max_tokens=1)).status_code == 200
    assert prompt_of(llm) == f"system: {text}\nassistant: "


def test_developers_are_merged_into_the_system_message(url, llm):
    roles = ("system", "user", "developer")
    messages = [{"role": role, "content": role[0]} for role in roles]
    fields = {"max_tokens": 1, "chat_template_kwargs": {"merge_developers": False}}
    assert post(url, CHAT, chat(messages=messages, **fields)).status_code == 200
    assert prompt_of(llm) == "system: s\n\nd\nuser: u\nassistant: "


def test_template_of_the_request(url, llm):
    template = "{{ x }}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    fields = {"chat_template": template, "chat_template_kwargs": {"x": "!"}, "return_prompt_text": True}
    body = post(url, CHAT, chat(max_tokens=1, **fields)).json()
    assert body["prompt_text"] == prompt_of(llm) == "!<hi>"
    first, *_ = events(post(url, CHAT, chat(max_tokens=1, stream=True, **fields)))
    assert first["prompt_text"] == "!<hi>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 +", "the chat template is not valid"),
        ("{{ ''.__class__.__mro__ }}{{ raise_exception('no') }}", "unsafe"),
        ("{% for i in range(99999999) %}x{% endfor %}", "the chat template fails"),
        ("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}", "steps"),
        ("x" * 70_000, "65536 characters"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_templates_of_the_request(url, template, message):
    response = post(url, CHAT, chat(max_tokens=1, chat_template=template))
    assert response.status_code == 400 and message in response.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_templates_that_are_not_trusted(serve, path):
    url = serve(FakeLLM(), trust_request_chat_template=False)
    error = post(url, path, chat(chat_template="x")).json()["error"]
    assert error["message"].startswith("Chat template is passed with request, but --trust-request-chat-template is not")
    assert (error["code"], error["param"]) == (400, "chat_template")
    assert "error" not in post(url, path, chat()).json()


def test_continue_final_message(url, llm):
    fields = {"add_generation_prompt": False, "continue_final_message": True, "max_tokens": 1}
    body = post(url, CHAT, chat(messages=TALK, **fields)).json()
    assert body["choices"][0]["message"]["content"] == "L"
    assert prompt_of(llm) == "user: hi\nassistant: well,"


@pytest.mark.parametrize(
    ("add", "role", "echo"), [(True, "assistant", "well,"), (False, "assistant", "well,"), (None, "assistant", "well,")]
)
def test_echo(url, add, role, echo):
    """Only a last message of the answer's own role is repeated."""
    fields = {"messages": TALK, "echo": True, "max_tokens": 1, "add_generation_prompt": add}
    message = post(url, CHAT, chat(**fields)).json()["choices"][0]["message"]
    assert (message["role"], message["content"]) == (role, echo + "L")
    *chunks, _ = events(post(url, CHAT, chat(stream=True, n=2, **fields)))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[:4] == [{"role": role, "content": ""}] * 2 + [{"content": echo}] * 2
    other = post(url, CHAT, chat(echo=True, max_tokens=1)).json()["choices"][0]["message"]
    assert (other["role"], other["content"]) == ("assistant", "L")
    own = post(url, CHAT, chat(echo=True, max_tokens=1, add_generation_prompt=False)).json()["choices"][0]["message"]
    assert (own["role"], own["content"]) == ("user", "hiL")


def test_batch(url):
    conversations = [TALK, [{"role": "user", "content": "ho"}], TALK]
    body = post(url, CHAT + "/batch", chat(messages=conversations, max_tokens=2, return_token_ids=True)).json()
    assert [(c["index"], c["message"]["content"]) for c in body["choices"]] == [(i, "Li") for i in range(3)]
    alone = [post(url, CHAT, chat(messages=one, max_tokens=2)).json()["usage"] for one in conversations]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert body["usage"][name] == sum(usage[name] for usage in alone)
    assert body["object"] == "chat.completion" and body["prompt_token_ids"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"stream": True}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [TALK] * 1025}, "messages"),
        ({"messages": [TALK, []]}, "messages"),
        ({"messages": TALK}, "messages[0]"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"return_prompt_text": True}, "return_prompt_text"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_batch_refusals(url, fields, param):
    error = post(url, CHAT + "/batch", chat(messages=[TALK]) | fields).json()["error"]
    assert (error["code"], error["param"]) == (400, param)


def test_truncation(url, llm):
    length = len(f"user: {'x' * 300}\nassistant: ")
    long = chat(messages=[{"role": "user", "content": "x" * 300}], max_tokens=1)
    assert post(url, CHAT, long).status_code == 400
    assert post(url, CHAT, long | {"truncate_prompt_tokens": -1}).json()["usage"]["prompt_tokens"] == 255
    assert prompt_of(llm) == f"user: {'x' * 300}\nassistant: "[length - 255 :]
    post(url, CHAT, long | {"truncate_prompt_tokens": 6, "truncation_side": "right"})
    assert prompt_of(llm) == "user: "
