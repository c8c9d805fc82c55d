"""`trivet serve` as a process of its own, over an engine that answers without a model."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.server.fake_llm import FakeEngine, byte_model
from tests.server.wire import chat, client, get, post
from trivet.cli.main import main

FAKED = (
    "import trivet.engine.process as process\n"
    "from tests.server.fake_llm import FakeEngine\n"
    "process.ProcessClient = lambda config: FakeEngine({behaviour})\n"
    "from trivet.cli.main import main\n"
    "main()\n"
)


class Served:
    """A running command of Python's; its URL is known once it says so."""

    def __init__(self, *args: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, *args], stdout=pipe, stderr=pipe, text=True)

    def url(self) -> str:
        self.welcome = self.process.stdout.readline() + self.process.stdout.readline()
        found = re.search(r"http://\S+:\d+", self.welcome)
        assert found, self.end()
        return found[0]

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def trivet_serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*args: str, behaviour: str = "", port: str = "0", model: str | None = None) -> Served:
        code = FAKED.format(behaviour=behaviour)
        started.append(Served("-c", code, "serve", model or byte_model(), "--port", port, *args))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.wait()


def test_it_serves_and_ends(trivet_serve):
    served = trivet_serve("--served-model-name", "first", "-a", "second", "--log-requests")
    url = served.url()
    assert url.startswith("http://127.0.0.1:")
    assert "serves first (llama, f32, 0.0 MB) on cpu (avx2, 2 threads)" in served.welcome
    assert "context 256 tokens, cache 1,024 tokens" in served.welcome
    body = chat(max_tokens=2) | {"model": "second"}
    assert post(url, "/v1/chat/completions", body).json()["model"] == "second"
    assert [card["id"] for card in get(url, "/v1/models").json()["data"]] == ["first", "second"]
    served.signal()
    code, out, err = served.end()
    assert (code, out) == (0, "")
    assert "POST /v1/chat/completions 200" in err and "Traceback" not in err


def test_a_stream_may_finish(trivet_serve):
    served = trivet_serve(behaviour="delay=0.03")
    with client.stream("POST", served.url() + "/generate_stream", json={"inputs": "hi"}) as response:
        lines = response.iter_lines()
        next(lines)
        served.signal()
        rest = [line for line in lines if line]
    assert "generated_text" in rest[-1] and "She ran home." in rest[-1]
    assert served.end()[0] == 0


def test_what_cannot_finish_is_told(trivet_serve):
    served = trivet_serve("--shutdown-timeout", "1", behaviour="delay=0.2")
    url = served.url()
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(post(url, "/v1/completions", {"prompt": "hi", "max_tokens": 99}))
    )
    waiting.start()
    with client.stream("POST", url + "/completion", json={"prompt": "hi", "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        served.signal()
        rest = [line for line in lines if line]
    waiting.join()
    assert "the server is shutting down" in rest[-1] and '"code":503' in rest[-1]
    assert answers[0].status_code == 503
    code, _, err = served.end()
    assert code == 0 and "Traceback" not in err


def test_a_second_signal_does_not_wait(trivet_serve):
    served = trivet_serve(behaviour="delay=1")
    with client.stream("POST", served.url() + "/completion", json={"prompt": "hi", "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        served.signal(signal.SIGINT)
        time.sleep(0.5)
        assert served.process.poll() is None
        served.signal(signal.SIGINT)
        assert "the server is shutting down" in "".join(lines)
    code, _, err = served.end()
    assert code == 0 and "Traceback" not in err


def test_a_signal_while_loading(trivet_serve):
    served = trivet_serve(behaviour="load_delay=30")
    served.process.stderr.readline()
    time.sleep(1)
    served.signal(signal.SIGINT)
    code, _, err = served.end()
    assert (code, err) == (130, "trivet: interrupted\n")


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that is to fail before it serves; returns its exit code and its one line of error."""

    def run(*args: str, model: str | None = None) -> tuple[int, str]:
        monkeypatch.setattr("trivet.engine.process.ProcessClient", lambda config: FakeEngine())
        monkeypatch.setattr(sys, "argv", ["trivet", "serve", model or byte_model(), *args])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        *before, last = err.splitlines()
        assert out == "" and last.startswith("trivet: error: ") and all("Loading" in line for line in before)
        return exit.value.code, err

    return run


def test_a_port_in_use(refused):
    """It is found out before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, err = refused("--port", port, model="/no/such/model")
    assert code == 1
    assert err == f"trivet: error: port {port} on 127.0.0.1 is in use; choose another with --port\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--host", "no.such.host.invalid"), 1, "cannot serve at no.such.host.invalid"),
        (("--host", "192.0.2.1"), 1, "cannot serve at 192.0.2.1"),
        (("--port", "70000"), 2, "65535"),
        (("--block-size", "17"), 1, "block_size must be one of"),
        (("--log-level", "loud"), 2, "must be one of debug"),
        (("--max-model-len", "many"), 2, "must be a number"),
        (("--nonsense",), 2, "no such option"),
        (("--chat-template", "/no/such/file", "--port", "0"), 1, "/no/such/file"),
    ],
)
def test_what_cannot_be_served(refused, args, code, message):
    got, err = refused(*args)
    assert got == code and message in err.lower()


def test_a_model_that_is_not_there(refused):
    code, err = refused("--port", "0", model="/no/such/model")
    assert code == 1 and "/no/such/model: no such file" in err


def test_key_and_origins(trivet_serve, monkeypatch):
    monkeypatch.setenv("TRIVET_API_KEY", "k1 k2")
    url = trivet_serve("--allowed-origins", "*").url()
    assert get(url, "/v1/models").status_code == 401
    for key in ("k1", "k2"):
        got = get(url, "/v1/models", headers={"Authorization": f"Bearer {key}", "Origin": "http://a.example"})
        assert got.status_code == 200 and got.headers["access-control-allow-origin"] == "*"
