"""What TGI's dialect answers beside generation, and on which paths."""

from __future__ import annotations

import pytest

from tests.server.fake_llm import ANSWER, BOS, FakeLLM
from tests.server.wire import chat, client, events, get, post
from trivet.server.dialects.tgi.tokenize import spans


def prompt_token(id, text, start, stop):
    return {"id": id, "text": text, "start": start, "stop": stop}


BODIES = {
    "inputs": ({"inputs": "hi", "parameters": {"return_full_text": False}}, [{"generated_text": ANSWER}]),
    "messages": (chat(), "chat.completion"),
    "prompt": ({"prompt": "hi"}, "text_completion"),
}


@pytest.mark.parametrize("path", ["/invocations", "/", "/v1"])
@pytest.mark.parametrize("key", BODIES)
def test_bodies_of_any_kind(tgi, path, key):
    """A body is answered by what it asks for, wherever clients were told to send it."""
    body, expected = BODIES[key]
    got = post(tgi, path, body).json()
    assert (got["object"] if isinstance(got, dict) else got) == expected
    assert events(post(tgi, path, body | {"stream": True}))[-1] != {}


@pytest.mark.parametrize("path", ["/invocations", "/", "/v1"])
def test_bodies_of_no_kind(tgi, path):
    response = post(tgi, path, {"x": 1})
    assert response.status_code == 422
    assert response.text.endswith("target type: Object missing required field `inputs`")


def test_vertex(tgi, tgi_llm):
    instances = [
        {"inputs": "hi", "parameters": {"max_new_tokens": 3, "seed": 5}},
        {"inputs": "hi"},
        chat(max_tokens=2),
        {"inputs": "hi", "parameters": {"do_sample": False, "stop": ["saw"]}},
    ]
    got = post(tgi, "/vertex", {"instances": instances}).json()
    assert got == {"predictions": ["Lil", ANSWER, "Li", "Lily saw"]}
    assert [request.params.greedy for request in tgi_llm.requests] == [False, False, False, True]
    assert tgi_llm.requests[0].params.seed == 5


@pytest.mark.parametrize(
    ("instances", "kind"),
    [([], "Input validation error"), ([{"inputs": ""}], "validation"), ([chat(messages=[])], "template_error")],
)
def test_vertex_refused(tgi, instances, kind):
    response = post(tgi, "/vertex", {"instances": instances})
    assert response.status_code == 422 and response.json()["error_type"] == kind


@pytest.mark.parametrize("instances", [["x"], [{}], "x", None])
def test_vertex_of_another_shape(tgi, instances):
    response = post(tgi, "/vertex", {"instances": instances})
    assert response.status_code == 422 and response.text.startswith("Failed to deserialize")


def test_tokenize(url):
    """Transcript A7 of the reference, told from the other dialects' by its key; `truncate` is not looked at."""
    got = post(url, "/tokenize", {"inputs": "hé<extra>", "parameters": {"truncate": 1}}).json()
    assert got == [
        prompt_token(BOS, "", 0, 0),
        prompt_token(ord("h"), "h", 0, 1),
        prompt_token(0xC3, "\ufffd", 1, 2),
        prompt_token(0xA9, "\ufffd", 2, 3),
        prompt_token(258, "<extra>", 3, 10),
    ]
    assert list(got[0]) == ["id", "text", "start", "stop"]
    assert "tokens" in post(url, "/tokenize", {"prompt": "hi"}).json()


def test_chat_tokenize(url):
    got = post(url, "/chat_tokenize", chat()).json()
    text = "user: hi\nassistant: "
    assert got == {
        "tokenize_response": [prompt_token(ord(c), c, i, i + 1) for i, c in enumerate(text)],
        "templated_text": text,
    }
    response = post(url, "/chat_tokenize", chat(messages=[]))
    assert response.status_code == 422 and response.json()["error_type"] == "template_error"


class Pieces:
    """Tokens are indices of pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def token_bytes(self, token):
        return self.pieces[token]


@pytest.mark.parametrize(
    ("text", "pieces", "found"),
    [
        ("Hi you", [b" Hi", b" you"], [("Hi", 0, 2), (" you", 2, 6)]),
        ("Hi you", [b"Hi", b"you"], [("Hi", 0, 2), ("you", 3, 6)]),
        ("HI you", [b"hi", b" you"], [("", 0, 0), (" you", 2, 6)]),
        ("é", [b"\xc3", b"\xa9"], [("\ufffd", 0, 1), ("\ufffd", 1, 2)]),
        ("a" + " " * 99 + "b", [b"x", b"b"], [("", 0, 0), ("", 0, 0)]),
    ],
)
def test_spans(text, pieces, found):
    got = spans(Pieces(*pieces), text, range(len(pieces)))
    assert [(one.text, one.start, one.stop) for one in got] == found


def test_info(url, serve):
    info = get(url, "/info").json()
    assert (info["model_id"], info["max_input_tokens"], info["max_total_tokens"]) == ("fake", 255, 256)
    assert (info["max_best_of"], info["max_stop_sequences"], info["max_client_batch_size"]) == (2, 4, 4)
    assert (info["max_batch_total_tokens"], info["router"]) == (1024, "text-generation-router")
    assert (info["max_concurrent_requests"], info["max_batch_size"]) == (8 + 1024, 8)
    assert list(info)[:4] == ["model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests"]
    limited = serve(FakeLLM(), max_input_tokens=10, max_client_batch_size=2, max_best_of=1)
    info = get(limited, "/info").json()
    limits = (info["max_input_tokens"], info["max_input_length"], info["max_client_batch_size"], info["max_best_of"])
    assert limits == (10, 10, 2, 1)
    for inputs, status in (("x" * 9, 200), ("x" * 10, 422)):
        assert post(limited, "/generate", {"inputs": inputs}).status_code == status


def test_models(tgi, url):
    model = {"id": "fake", "object": "model", "created": 0, "owned_by": "fake"}
    assert get(tgi, "/v1/models").json() == {"object": "list", "data": [model]}
    assert get(url, "/v1/models").json() != get(tgi, "/v1/models").json()


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health(serve, path):
    llm = FakeLLM()
    url = serve(llm, dialect="tgi", api_keys=("k",))
    assert (get(url, path).status_code, get(url, path).content) == (200, b"")
    llm.engine.alive = False
    response = get(url, path)
    assert (response.status_code, response.json()) == (503, {"error": "unhealthy", "error_type": "healthcheck"})


def test_keys(serve):
    """The key may be written in any case, as TGI has it for the whole header."""
    url = serve(FakeLLM(), dialect="tgi", api_keys=("k",))
    for path, body in (("/", {"inputs": "a"}), ("/v1/chat/completions", chat()), ("/chat_tokenize", chat())):
        response = post(url, path, body)
        assert (response.status_code, response.content) == (401, b"")
        assert post(url, path, body, headers={"Authorization": "bearer k"}).status_code == 200
    assert [get(url, path).status_code for path in ("/info", "/metrics", "/v1/models")] == [200] * 3


def test_nothing_there(tgi):
    missing, wrong = get(tgi, "/nothing"), get(tgi, "/generate")
    assert (missing.status_code, missing.content) == (404, b"")
    assert (wrong.status_code, wrong.content, wrong.headers["allow"]) == (405, b"", "POST")


def test_a_body_too_large(serve):
    url = serve(FakeLLM(), dialect="tgi", payload_limit=1000)
    for path in ("/", "/generate", "/v1/chat/completions", "/tokenize", "/vertex"):
        response = client.post(url + path, content=b"x" * 1500, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert response.text == "Failed to buffer the request body: length limit exceeded"
