"""Clients that mean no good, or know no better: they get an error or are cut off, and others notice nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import msgspec
import pytest

from tests.server.conftest import running
from tests.server.fake_llm import ANSWER, FakeLLM
from tests.server.wire import client, get, post
from trivet.server.launch import allow_connections
from trivet.server.options import ListenOptions, ServerOptions

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 60},
    "/v1/completions": {"prompt": "hi", "max_tokens": 60},
    "/generate": {"inputs": "hi"},
    "/completion": {"prompt": "hi"},
}
BAD = [
    b'{"stream": 7, "prompt": 3, "inputs": 3, "messages": 3}',
    b"[]",
    b'"text"',
    b"nul",
    b'{"prompt": "hi", "inputs": "hi", "temperature": NaN, "parameters": {"temperature": NaN}}',
    b'{"prompt": "hi", "inputs": "hi", "temperature": 1e999, "parameters": {"temperature": 1e999}}',
    b'{"prompt": "\xff\xfe", "inputs": "\xff\xfe"}',
    b'{"prompt": "\\ud800", "inputs": "\\ud800"}',
    b"[" * 200_000,
    b'{"a":' * 200_000,
]


def raw(url: str, data: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def head(length: int = 0) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d" % length


def cut_off_after(connection: socket.socket) -> float:
    """Seconds until the server closes a connection that it does not answer."""
    began = time.monotonic()
    with suppress(ConnectionError):
        assert connection.recv(100) == b""
    return time.monotonic() - began


def cut_off_while_sending(connection: socket.socket, piece: bytes, pause: float = 0.01) -> float:
    """Seconds for which a piece may be sent again and again."""
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - began < 10:
            connection.sendall(piece)
            time.sleep(pause)
    return time.monotonic() - began


@contextmanager
def beside_a_stream(url: str):
    """What is done inside must not hold up a stream, whose 31 tokens come 20 ms apart."""
    pauses: list[float] = []
    texts: list[str] = []

    def follow() -> None:
        with client.stream("POST", url + "/completion", json={"prompt": "hi", "stream": True}) as response:
            before = time.monotonic()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    now = time.monotonic()
                    pauses.append(now - before)
                    texts.append(json.loads(line[6:])["content"])
                    before = now

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    thread.join()
    assert "".join(texts) == ANSWER
    assert sorted(pauses)[len(pauses) // 2] < 0.1 and max(pauses) < 2


@pytest.fixture(scope="module")
def patient_url():
    """A server that gives clients half a second."""
    with running(FakeLLM(delay=0.02), listen=ListenOptions(read_timeout=0.5)) as url:
        yield url


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/comp", head()[:60], head(100) + b"\r\n\r\n", head(10**6) + b"\r\n\r\n{"]
)
def test_a_request_that_does_not_come_is_cut_off(patient_url, sent):
    with raw(patient_url, sent) as connection:
        assert 0.3 < cut_off_after(connection) < 5


@pytest.mark.parametrize("start", [head() + b"\r\nX: ", head(10_000) + b"\r\n\r\n"])
def test_a_request_that_comes_by_drops_is_cut_off(patient_url, start):
    with raw(patient_url, start) as connection:
        assert 0.3 < cut_off_while_sending(connection, b" ", pause=0.05) < 5


def test_a_slow_request_that_comes_is_answered(patient_url):
    """Also one after another on its connection, and after a rest that is longer than the time for a request."""
    body = msgspec.json.encode({"prompt": "hi", "max_tokens": 1})
    with raw(patient_url) as connection:
        for _ in range(3):
            for part in (head(len(body)) + b"\r\n", b"\r\n" + body[:4], body[4:]):
                time.sleep(0.1)
                connection.sendall(part)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert b" 200 " in answer
            time.sleep(0.7)


def test_the_next_request_on_a_connection_must_come_too(patient_url):
    body = msgspec.json.encode({"prompt": "hi", "max_tokens": 1})
    with raw(patient_url, head(len(body)) + b"\r\n\r\n" + body) as connection:
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        connection.sendall(b"POST /v1/comp")
        assert 0.3 < cut_off_after(connection) < 5


def test_slow_clients_hold_up_nobody(patient_url):
    with beside_a_stream(patient_url):
        drips = [raw(patient_url, head(100) + b"\r\n\r\n") for _ in range(100)]
        for _ in range(20):
            for connection in drips:
                try:
                    connection.sendall(b" ")
                except OSError:
                    connection.close()
            drips = [connection for connection in drips if connection.fileno() >= 0]
            time.sleep(0.02)
    for connection in drips:
        connection.close()


def test_many_idle_connections():
    allow_connections()
    with running(FakeLLM(delay=0.02)) as url:
        with beside_a_stream(url):
            idle = [raw(url) for _ in range(2000)]
        assert post(url, "/v1/completions", BODIES["/v1/completions"]).status_code == 200
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("path", BODIES)
def test_bad_bodies_hold_up_nobody(patient_url, path):
    with beside_a_stream(patient_url):
        for body in BAD:
            response = client.post(patient_url + path, content=body, headers={"content-type": "application/json"})
            assert response.status_code in (400, 422) and response.text
            assert "Traceback" not in response.text and len(response.text) < 1000


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("what", ["long", "stops", "one long stop", "nan text"])
def test_bodies_that_ask_for_too_much(patient_url, path, what):
    body = json.loads(json.dumps(BODIES[path]))
    parameters = body.setdefault("parameters", {}) if path == "/generate" else body
    if what == "long":
        content = "x" * 300_000
        if "messages" in body:
            body["messages"][0]["content"] = content
        else:
            body["inputs" if path == "/generate" else "prompt"] = content
    elif what == "stops":
        parameters["stop"] = [f"{i}" for i in range(10_000)]
    elif what == "one long stop":
        parameters["stop"] = ["x" * 1_000_000]
    else:
        parameters["temperature"] = "NaN"
    with beside_a_stream(patient_url):
        response = post(patient_url, path, body)
    # llama.cpp sets no limit to stop strings, nor anyone to their length.
    assert response.status_code in ((200, 400, 422) if "stop" in what else (400, 422))
    assert response.status_code == 200 or len(response.text) < 1000


def test_a_huge_body_is_refused_and_cut_off():
    """It is answered while it comes; who goes on to send is not listened to for ever."""
    with running(FakeLLM(), ServerOptions(payload_limit=1000), ListenOptions(read_timeout=0.5)) as url:
        with raw(url, head(10**12) + b"\r\n\r\n" + b"x" * 5000) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
            assert cut_off_while_sending(connection, b"x" * 10_000) < 5
        assert get(url, "/health").status_code == 200


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /"])
def test_a_head_without_end_is_refused_and_cut_off(patient_url, start):
    with raw(patient_url, start + b"a" * 100_000) as connection:
        answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 431 ") and b"may have 65,536 bytes" in answer
        assert cut_off_while_sending(connection, b"a" * 10_000) < 5


@pytest.mark.parametrize(
    "request_line",
    [b"GET /" + b"a" * 200_000 + b" HTTP/1.1", b"\x16\x03\x01\x02\x00", b"\x00" * 50, b"GET  HTTP/1.1"],
)
def test_what_is_not_http(url, request_line):
    with raw(url) as connection:
        try:
            connection.sendall(request_line + b"\r\n\r\n")
            assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 4"))
        except ConnectionError:
            pass
    assert get(url, "/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/slots/0?action=save",
        "/web/../../../etc/passwd",
        "/web/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_name_leads_out(serve, tmp_path, path):
    folder = tmp_path / "slots"
    folder.mkdir()
    url = serve(FakeLLM(), slot_save_path=folder)
    for name in ("../out", "/tmp/out", "a/../../out", "..", "\x00", "a/b", "..\\out"):
        method = "POST" if "action" in path else "GET"
        response = client.request(method, url + path, json={"filename": name} if method == "POST" else None)
        assert 400 <= response.status_code <= 501 and "root:" not in response.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["slots"] and not list(folder.iterdir())


@pytest.mark.parametrize("path", BODIES)
def test_no_log_has_text(serve, caplog, path):
    """At any level, with a line for each request, and for what is refused or fails as well."""
    caplog.set_level("DEBUG")
    secret = "sesame"
    body = msgspec.json.decode(msgspec.json.encode(BODIES[path]).replace(b'"hi"', f'"{secret}"'.encode()))
    for llm in (FakeLLM(), FakeLLM(fail_after=2), FakeLLM(overloaded=True)):
        url = serve(llm, log_requests=True)
        post(url, path, body)
        post(url, path, body | {"stream": True, "temperature": -1, "parameters": {"temperature": -1}})
        client.post(url + path, content=b'{"prompt": "sesame', headers={"content-type": "application/json"})
    ours = [record for record in caplog.records if not record.name.startswith(("httpcore", "httpx", "asyncio"))]
    assert any(path in record.getMessage() for record in ours)
    assert not any(secret in record.getMessage() or secret in (record.exc_text or "") for record in ours)
