from __future__ import annotations

import pytest

from tests.server.wire import post


@pytest.mark.parametrize(
    ("path", "request_body", "answer"),
    [
        ("/tokenize", {"content": "hi"}, {"tokens": [104, 105]}),
        ("/tokenize", {"content": "hi", "add_special": True}, {"tokens": [256, 104, 105]}),
        ("/tokenize", {"content": [50, "h"]}, {"tokens": [50, 104]}),
        (
            "/tokenize",
            {"content": "é", "with_pieces": True},
            {"tokens": [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]},
        ),
        (
            "/tokenize",
            {"prompt": "hi"},
            {"count": 3, "max_model_len": 256, "tokens": [256, 104, 105], "token_strs": None},
        ),
        (
            "/tokenize",
            {"model": "fake", "prompt": "h", "add_special_tokens": False, "return_token_strs": True},
            {"count": 1, "max_model_len": 256, "tokens": [104], "token_strs": ["h"]},
        ),
        ("/detokenize", {"tokens": [256, 104, 105]}, {"prompt": "<s>hi", "content": "<s>hi"}),
    ],
)
def test_tokenize(url, path, request_body, answer):
    assert post(url, path, request_body).json() == answer


def test_tokenize_chat(url):
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    assert post(url, "/tokenize", messages).json()["count"] == len("user: hi\nassistant: ")
    shorter = post(url, "/tokenize", messages | {"add_generation_prompt": False}).json()
    assert shorter["count"] == len("user: hi\n")


@pytest.mark.parametrize(
    ("path", "request_body", "status", "kind"),
    [
        ("/tokenize", {"content": 5}, 400, "invalid_request_error"),
        ("/tokenize", {"prompt": 5}, 400, "Bad Request"),
        ("/tokenize", {}, 400, "Bad Request"),
        ("/tokenize", {"prompt": "a", "model": "x"}, 404, "NotFoundError"),
        ("/detokenize", {"tokens": [999]}, 400, "BadRequestError"),
    ],
)
def test_tokenize_errors(url, path, request_body, status, kind):
    response = post(url, path, request_body)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
