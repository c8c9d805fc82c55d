from __future__ import annotations

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import client, get, post, until
from trivet.server.dialects.openai.absent import OPERATIONS

MESSAGES = [{"role": "user", "content": "hi"}]


def test_models(url):
    listed = get(url, "/v1/models").json()
    [card] = listed["data"]
    assert listed["object"] == "list"
    assert list(card) == ["id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"]
    assert (card["id"], card["max_model_len"]) == ("fake", 256)
    assert get(url, "/v1/models/fake").json() == card
    for name in ["org/other", "", "tgi"]:
        missing = get(url, f"/v1/models/{name}")
        assert missing.status_code == 404 and missing.json()["error"]["type"] == "NotFoundError"


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "hi"}, [256, *b"hi"]),
        ({"prompt": "hi", "add_special_tokens": False}, [*b"hi"]),
        ({"prompt": ""}, [256]),
        ({"messages": MESSAGES}, [*b"user: hi\nassistant: "]),
        ({"messages": MESSAGES, "add_generation_prompt": False}, [*b"user: hi\n"]),
        ({"messages": MESSAGES, "add_special_tokens": True, "chat_template": "x"}, [256, *b"x"]),
        ({"messages": MESSAGES, "chat_template": "{{ y }}", "chat_template_kwargs": {"y": "z"}}, [*b"z"]),
        (
            {"messages": MESSAGES, "tools": [{"a": "t"}], "chat_template": "{% for t in tools %}{{ t.a }}{% endfor %}"},
            [*b"t"],
        ),
        (
            {"messages": MESSAGES, "add_generation_prompt": False, "continue_final_message": True},
            [*b"user: hi"],
        ),
    ],
)
def test_tokenize(url, body, tokens):
    expected = {"count": len(tokens), "max_model_len": 256, "tokens": tokens, "token_strs": None}
    assert post(url, "/tokenize", {"model": "fake", **body}).json() == expected


def test_token_strings_are_as_the_file_spells_them(url):
    got = post(url, "/tokenize", {"prompt": "a b\n", "return_token_strs": True}).json()
    assert got["token_strs"] == ["<s>", "a", "Ġ", "b", "Ċ"]


def test_detokenize(url):
    assert post(url, "/detokenize", {"tokens": [256, *"né".encode()]}).json()["prompt"] == "<s>né"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"prompt": "a", "model": "b"}, 404),
        ("/tokenize", {"prompt": 1}, 400),
        ("/tokenize", {"messages": []}, 400),
        ("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"self": 1}}, 400),
        ("/tokenize", {"messages": MESSAGES, "mm_processor_kwargs": {"a": 1}}, 400),
        ("/tokenize", {"messages": MESSAGES, "continue_final_message": True}, 400),
        ("/detokenize", {"tokens": [260]}, 400),
        ("/detokenize", {"tokens": [-1]}, 400),
        ("/detokenize", {"tokens": "a"}, 400),
    ],
)
def test_tokenize_refusals(url, path, body, status):
    response = post(url, path, body)
    assert response.status_code == response.json()["error"]["code"] == status


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_what_is_not_here(url, operation):
    response = client.request(operation.method, url + operation.path, json={})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (404, 404, "NotFoundError")
    assert f"{operation.path} is not supported by this server: " in error["message"]


def test_load(serve):
    """What runs or waits."""
    llm = FakeLLM(delay=0.05)
    url = serve(llm)
    with client.stream("POST", url + "/v1/completions", json={"prompt": "hi", "n": 2, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert get(url, "/load").json() == {"server_load": 2}
    until(lambda: get(url, "/load").json() == {"server_load": 0})
