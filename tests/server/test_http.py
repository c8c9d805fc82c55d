"""What holds for every dialect: keys, limits, clients that leave, ends that come early."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx
import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import chat, client, events, get, post, until
from trivet.server import sse

REQUESTS = {
    "/v1/chat/completions": chat(),
    "/v1/completions": {"prompt": "hi", "max_tokens": 60},
    "/": {"inputs": "hi", "parameters": {}},
    "/generate": {"inputs": "hi"},
    "/completion": {"prompt": "hi"},
}
STREAMS = {path: body | {"stream": True} for path, body in REQUESTS.items() if path != "/generate"} | {
    "/generate_stream": {"inputs": "hi"}
}


def test_keys(serve):
    url = serve(FakeLLM(), api_keys=("sésame", "other"))
    good = [
        {"Authorization": "Bearer sésame".encode()},
        {"Authorization": "bearer other"},
        {"X-Api-Key": "other"},
    ]
    bad = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "other"}, {"X-Api-Key": ""}]
    for path, body in {**REQUESTS, "/tokenize": {"prompt": "a"}}.items():
        assert [post(url, path, body, headers=h).status_code for h in good] == [200] * 3
        assert [post(url, path, body, headers=h).status_code for h in bad] == [401] * 4
    assert post(url, "/v1/completions", {}).json() == {"error": "Unauthorized"}
    assert post(url, "/generate", {}).text == ""
    unauthorized = {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}
    assert post(url, "/completion", {}).json() == {"error": unauthorized}
    assert get(url, "/v1/models").status_code == 401
    for path in ("/", "/health", "/ping", "/info", "/metrics", "/version", "/web/facts.json"):
        assert get(url, path).status_code == 200


def test_tenants_are_those_who_share_a_key(serve):
    llm = FakeLLM()
    url = serve(llm, api_keys=("one", "other"))
    for key, path in (("one", "/generate"), ("one", "/v1/completions"), ("other", "/v1/completions")):
        assert post(url, path, REQUESTS[path], headers={"X-Api-Key": key}).status_code == 200
    first, second, third = (request.tenant for request in llm.requests)
    assert first == second != third
    assert "one" not in first
    open_url, anybody = serve(everybody := FakeLLM()), {"Authorization": "Bearer one"}
    assert post(open_url, "/generate", REQUESTS["/generate"], headers=anybody).status_code == 200
    assert everybody.requests[0].tenant == ""


LATE = "the request took longer than its timeout of 0.1 seconds"


@pytest.mark.parametrize("path", [*REQUESTS, "/v1/messages"])
@pytest.mark.parametrize("how", ["header", "option"])
def test_an_answer_that_takes_too_long_is_given_up(serve, path, how):
    llm = FakeLLM(delay=0.2)
    url = serve(llm, request_timeout=0.1 if how == "option" else 60)
    messages = {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"X-Request-Timeout": "0.1"} if how == "header" else {}
    response = post(url, path, REQUESTS.get(path, messages), headers=headers)
    assert response.status_code == 504
    assert LATE in response.text
    assert "timeout" in response.text.replace(LATE, "").lower()
    until(lambda: llm.engine.cancelled == 1)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_that_takes_too_long_ends_with_an_error(serve, path):
    llm = FakeLLM(delay=0.04)
    url = serve(llm, request_timeout=0.1)
    response = post(url, path, STREAMS[path])
    assert response.status_code == 200
    assert response.text.count("data: ") > 1
    assert LATE in response.text.strip().rpartition("data: {")[2]


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "nan", "inf"])
def test_a_timeout_is_a_number_of_seconds(url, timeout):
    response = post(url, "/v1/completions", REQUESTS["/v1/completions"], headers={"X-Request-Timeout": timeout})
    assert response.status_code == 400
    assert f"X-Request-Timeout must be a number of seconds above 0, got '{timeout}'" in response.text


def test_any_key_does_where_none_is_asked_for(url):
    headers = {"Authorization": "Bearer hf_abc"}
    assert post(url, "/", REQUESTS["/"], headers=headers).status_code == 200


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("size", [1001, 1900, 5000])
def test_large_bodies(serve, path, size):
    url = serve(FakeLLM(), payload_limit=1000)
    padding = {"padding": "x" * size}
    response = post(url, path, REQUESTS[path] | padding)
    assert response.status_code == 413
    assert post(url, path, REQUESTS[path]).status_code == 200


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"nul", b"{} {}", b'{"a": NaN}', b'{"prompt": "\xff"}', b'{"inputs": "\\ud800"}'),
        *(b'{"unknown": ' + b"[" * 100_000, b"\x00"),
    ],
    ids=lambda content: repr(content[:16]),
)
def test_bodies_that_are_not_json(url, path, content):
    response = client.post(url + path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert "Traceback" not in response.text and len(response.text) < 500


def test_nothing_there(url):
    missing = get(url, "/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "NotFoundError"
    wrong = get(url, "/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("PUT", "/completion", '{"error":{"code":405,'),
        ("DELETE", "/slots/0", '{"error":{"code":405,'),
        ("GET", "/v1/messages", '{"type":"error","error":{"type":"invalid_request_error",'),
        ("GET", "/v1/chat/completions", '{"error":{"message":'),
        ("PUT", "/v1/models", '{"error":{"message":'),
        ("PUT", "/health", '{"error":{"message":'),
    ],
)
def test_wrong_method(url, method, path, told):
    """It is told by the dialect that has the path."""
    wrong = client.request(method, url + path)
    assert wrong.status_code == 405 and wrong.text.startswith(told)


@pytest.mark.parametrize(("method", "path"), [("GET", "/generate"), ("PUT", "/")])
def test_wrong_method_of_tgi(url, method, path):
    wrong = client.request(method, url + path)
    assert (wrong.status_code, wrong.content) == (405, b"")


def test_health(serve):
    llm = FakeLLM()
    url = serve(llm)
    assert (get(url, "/health").status_code, get(url, "/health").json()) == (200, {"status": "ok"})
    assert client.post(url + "/ping").status_code == 200
    llm.engine.alive = False
    response = get(url, "/health")
    assert response.status_code == 503 and response.json()["error"]["type"] == "unavailable_error"


def test_page(url):
    page = get(url, "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org", "") and "https://" not in page.text
    facts = get(url, "/web/facts.json").json()
    assert (facts["model"], facts["chat"], facts["cache_tokens"]) == ("fake", True, 1024)


def test_cors(url, serve):
    headers = {"Origin": "https://a.example"}
    assert "access-control-allow-origin" not in get(url, "/version", headers=headers).headers
    open_url = serve(FakeLLM(), allowed_origins=("https://a.example",))
    assert get(open_url, "/version", headers=headers).headers["access-control-allow-origin"]
    asking = {**headers, "Access-Control-Request-Method": "POST"}
    preflight = client.options(open_url + "/v1/completions", headers=asking)
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    asking["Origin"] = "https://b.example"
    assert client.options(open_url + "/v1/completions", headers=asking).status_code == 400


@pytest.mark.parametrize("path", REQUESTS)
def test_a_client_that_leaves_while_it_waits(serve, path):
    llm = FakeLLM(delay=0.05)
    url = serve(llm)
    with pytest.raises(httpx.ReadTimeout):
        post(url, path, REQUESTS[path], timeout=0.2)
    until(lambda: llm.engine.cancelled == 1 and llm.engine.running == 0)
    assert 'tgi_request_failure{err="dropped"} 1.0' in get(url, "/metrics").text


@pytest.mark.parametrize("path", STREAMS)
def test_a_client_that_leaves_a_stream(serve, path):
    llm = FakeLLM(delay=0.02)
    url = serve(llm)
    with client.stream("POST", url + path, json=STREAMS[path]) as response:
        lines = response.iter_lines()
        while not next(lines).startswith("data: "):
            pass
    until(lambda: llm.engine.cancelled == 1 and llm.engine.running == 0)


def test_a_client_that_leaves_without_reading(serve):
    """The answer does not fit the socket's buffers: the server is stuck in sending when the client goes."""
    llm = FakeLLM(answer=[65] * 30_000, max_model_len=40_000)
    url = serve(llm)
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(chat(stream=True, logprobs=True, top_logprobs=5)).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: llm.engine.running == 1)
        time.sleep(0.3)
    until(lambda: llm.engine.running == 0)
    assert llm.engine.cancelled == 1


@pytest.mark.parametrize("path", STREAMS)
def test_an_engine_that_fails_in_a_stream(serve, path):
    url = serve(FakeLLM(fail_after=3))
    got = events(post(url, path, STREAMS[path]))
    errors = [event for event in got if "error" in event]
    assert len(errors) == 1 and "the engine died" in json.dumps(errors)
    assert got.index(errors[0]) == len(got) - 1 - (got[-1] == "[DONE]")
    assert (got[-1] == "[DONE]") == path.startswith("/v1")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/completion"])
def test_an_engine_that_fails_at_once(serve, path):
    """Before the first event the status can still tell."""
    url = serve(FakeLLM(fail_after=0))
    assert post(url, path, STREAMS[path]).status_code == 500
    assert post(url, path, REQUESTS[path]).status_code == 500


@pytest.mark.parametrize("path", [path for path in STREAMS if path.startswith("/v1")])
def test_overload(serve, path):
    url = serve(FakeLLM(overloaded=True))
    for body in (STREAMS[path], REQUESTS[path]):
        response = post(url, path, body)
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")
        assert response.json()["error"]["type"] == "RateLimitError"


def test_unforeseen_errors_tell_nothing(serve, caplog):
    llm = FakeLLM()
    url = serve(llm)
    llm.tokenizer.encode = lambda *_: 1 / 0
    response = post(url, "/v1/completions", {"prompt": "secret"})
    assert response.status_code == 500 and response.json()["error"]["message"] == "internal server error"
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text


def test_silence_is_filled(serve, monkeypatch):
    """A slow prompt: the status comes first, comments keep the connection, then all is as ever."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.1)
    url = serve(FakeLLM(delay=0.35))
    response = post(url, "/v1/completions", {"prompt": "hi", "stream": True, "max_tokens": 2})
    assert response.text.count(":\n\n") >= 3
    assert response.text.startswith(":\n\n")
    data = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert len(data) == 3 and data[-1] == "data: [DONE]"


def test_late_errors_are_events(serve, monkeypatch):
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)
    llm = FakeLLM(fail_after=1, delay=0.3)
    response = post(serve(llm), "/v1/completions", {"prompt": "hi", "stream": True})
    assert response.status_code == 200
    assert '"the engine died"' in response.text and response.text.endswith("data: [DONE]\n\n")


def test_log_has_no_text(serve, caplog):
    caplog.set_level("INFO")
    url = serve(FakeLLM(), log_requests=True)
    post(url, "/v1/completions", {"prompt": "secret"}, headers={"X-Request-Id": "r1"})
    until(lambda: " r1\n" in caplog.text)
    assert "POST /v1/completions 200" in caplog.text
    assert "secret" not in caplog.text


def test_many_at_once(serve):
    llm = FakeLLM(delay=0.001)
    url = serve(llm)

    async def ask_all():
        async with httpx.AsyncClient(timeout=30, verify=False) as many:
            jobs = [many.post(url + path, json=REQUESTS[path]) for path in REQUESTS for _ in range(10)]
            return await asyncio.gather(*jobs)

    responses = asyncio.run(ask_all())
    assert [response.status_code for response in responses] == [200] * len(responses)
    assert len({response.headers["x-request-id"] for response in responses}) == len(responses)
    assert llm.engine.running == 0 and llm.engine.cancelled == 0


def test_requests_may_share_an_id(url, llm):
    for _ in range(2):
        post(url, "/v1/completions", {"prompt": "hi"}, headers={"X-Request-Id": "same"})
    first, second = (request.request_id for request in llm.requests)
    assert first != second
