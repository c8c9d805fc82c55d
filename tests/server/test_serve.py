"""`trivet serve` as a process of its own, over an engine that answers without a model."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.server.fake_llm import FakeEngine, FakeLLM, byte_model
from tests.server.wire import chat, client, get, post, until
from trivet.cli.main import main

FAKED = (
    "import trivet.engine.process as process\n"
    "from tests.server.fake_llm import FakeEngine\n"
    "process.ProcessClient = lambda config, **_: FakeEngine({behaviour})\n"
)
COMMAND = "from trivet.cli.main import main\nmain()\n"
MODULE = "import runpy\nrunpy.run_module('trivet.entrypoints.openai.api_server', run_name='__main__')\n"


class Served:
    """A running command of Python's; its URL is known once it says so."""

    def __init__(self, *args: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, *args], stdout=pipe, stderr=pipe, text=True)

    def urls(self) -> list[str]:
        self.welcome = self.process.stdout.readline() + self.process.stdout.readline()
        found = re.findall(r"\w+:/\S+", self.welcome.partition("\n")[2])
        assert found, self.end()
        return found

    def url(self) -> str:
        return self.urls()[0]

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def launch() -> Iterator[Callable[..., Served]]:
    """Runs a command line of `trivet`, or of another module of its."""
    started: list[Served] = []

    def start(*args: str, behaviour: str = "", main: str = COMMAND) -> Served:
        started.append(Served("-c", FAKED.format(behaviour=behaviour) + main, *args))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.wait()


@pytest.fixture
def trivet_serve(launch: Callable[..., Served]) -> Callable[..., Served]:
    def start(*args: str, behaviour: str = "", port: str = "0", model: str | None = None) -> Served:
        return launch("serve", model or byte_model(), "--port", port, *args, behaviour=behaviour)

    return start


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


@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/completion", "/v1/messages"])
def test_what_comes_while_it_drains(trivet_serve, path):
    """The dialect's 503, and probes that say so; what runs goes on to its end."""
    served = trivet_serve("--drain-timeout", "20", behaviour="delay=0.06")
    url = served.url()
    with client.stream("POST", url + "/completion", json={"prompt": "hi", "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        served.signal()
        until(lambda: get(url, "/health").status_code == 503)
        assert "draining" in get(url, "/health").json()["error"]["message"]
        body = {"prompt": "hi", "inputs": "hi", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
        refused = post(url, path, body)
        rest = [line for line in lines if line]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "the server is shutting down" in refused.text and "error" in refused.json()
    assert '"stop":true' in rest[-1]
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
        monkeypatch.setattr("trivet.engine.process.ProcessClient", lambda config, **_: FakeEngine())
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
    monkeypatch.setenv("TRIVET_API_KEY", "k1,k2")
    url = trivet_serve("--allowed-origins", "*").url()
    assert get(url, "/v1/models").status_code == 401
    for key in ("k1", "k2"):
        got = get(url, "/v1/models", headers={"Authorization": f"Bearer {key}", "Origin": "http://a.example"})
        assert got.status_code == 200 and got.headers["access-control-allow-origin"] == "*"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """Paths of a certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {} -keyout {}"
    subprocess.run(command.format(*files).split(), check=True, stderr=subprocess.DEVNULL)
    return files


def test_https(trivet_serve, certificate):
    url = trivet_serve("--ssl-certfile", certificate[0], "--ssl-key-file", certificate[1]).url()
    assert url.startswith("https://127.0.0.1:")
    assert get(url, "/v1/models").status_code == 200


def test_a_certificate_that_is_wrong(refused, certificate, tmp_path):
    (tmp_path / "other").write_text("x")
    for cert, key, message in [
        ("/none", certificate[1], "cannot serve HTTPS with /none, "),
        (certificate[0], str(tmp_path / "other"), "other: "),
        (certificate[0], "/none", "/none: No such file"),
    ]:
        code, err = refused("--ssl-certfile", cert, "--ssl-keyfile", key, model="/no/such/model")
        assert code == 1 and message in err


def test_a_unix_socket(trivet_serve, tmp_path):
    path = tmp_path / "t.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    served = trivet_serve("--uds", str(path))
    assert served.url() == f"unix:{path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as local:
        assert local.get("http://local/v1/models").status_code == 200
    again = trivet_serve("--uds", str(path))
    assert again.end()[::2] == (1, f"trivet: error: {path} is in use\n")
    served.signal()
    assert served.end()[0] == 0 and not path.exists()


def test_a_unix_socket_does_not_replace_a_file(refused, tmp_path):
    path = tmp_path / "file.sock"
    path.write_text("precious")
    code, err = refused("--host", str(path), model="/no/such/model")
    assert (code, err) == (1, f"trivet: error: {path} is in use\n") and path.read_text() == "precious"


def test_several_addresses_under_a_path(trivet_serve, tmp_path):
    served = trivet_serve("--host", "127.0.0.1", "--host", str(tmp_path / "t.sock"), "--api-prefix", "/a/b/")
    url, local = served.urls()
    assert url.endswith("/a/b") and local == f"unix:{tmp_path}/t.sock/a/b"
    assert post(url, "/completion", {"prompt": "hi", "n_predict": 2}).json()["content"] == "Li"
    assert get(url.removesuffix("/a/b"), "/v1/models").status_code == 404


def test_behind_a_proxy(trivet_serve):
    """Which takes the path off."""
    url = trivet_serve("--root-path", "/api").url()
    assert post(url, "/v1/chat/completions", chat(max_tokens=2) | {"model": None}).status_code == 200


@pytest.mark.parametrize(
    ("args", "main", "path", "body"),
    [
        (["tgi", "--model-id", "M", "-p", "0"], COMMAND, "/", {"inputs": "hi", "parameters": {"max_new_tokens": 2}}),
        (["vllm", "serve", "M", "--port", "0"], COMMAND, "/v1/completions", {"prompt": "hi", "max_tokens": 2}),
        (["--model", "M", "--port", "0"], MODULE, "/v1/completions", {"prompt": "hi", "max_tokens": 2}),
        (["llama-server", "-m", "M", "--port", "0"], COMMAND, "/completion", {"prompt": "hi", "n_predict": 2}),
    ],
)
def test_launchers_of_the_peers(launch, args, main, path, body):
    model = byte_model()
    served = launch(*[model if word == "M" else word for word in args], main=main)
    assert 'Li"' in post(served.url(), path, body).text
    served.signal()
    assert served.end()[0] == 0


def test_origins_of_this_machine(serve, llm):
    url = serve(llm, allowed_origins=("localhost",), allow_credentials=True)
    for origin, allowed in [("http://localhost:3000", True), ("http://127.0.0.1", True), ("http://a.example", False)]:
        headers = get(url, "/v1/models", headers={"Origin": origin}).headers
        assert headers.get("access-control-allow-origin") == (origin if allowed else None)


@pytest.mark.parametrize("on", [True, False])
def test_metrics_may_be_off(serve, llm, on):
    """As llama-server has it."""
    got = get(serve(llm, metrics_endpoint=on), "/metrics")
    assert got.status_code == (200 if on else 501)
    assert on or got.json()["error"]["type"] == "not_supported_error"


@pytest.mark.parametrize("dialect", [None, "openai", "tgi", "anthropic", "llamacpp"])
def test_metrics_want_a_key_as_llama_server_has_it(serve, dialect):
    url = serve(FakeLLM(), dialect=dialect, api_keys=("k1",))
    assert get(url, "/metrics").status_code == (401 if dialect == "llamacpp" else 200)
    assert "llamacpp:requests_processing" in get(url, "/metrics", headers={"X-Api-Key": "k1"}).text
    assert get(url, "/health").status_code == 200
