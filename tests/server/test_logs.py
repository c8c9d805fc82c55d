"""What the log says of requests, in which form, from which process."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.test_engine import ask
from tests.server.wire import chat, get, post, until
from trivet.cli.launchers import LAUNCHERS
from trivet.cli.serve import read_settings
from trivet.cli.settings import listen_options
from trivet.engine.config import EngineConfig
from trivet.engine.process import ProcessClient
from trivet.logs import JsonLines, LogOptions, TextLines, request_id

SECRET = "secret"


def record(**more):
    return logging.makeLogRecord({"name": "trivet.x", "levelname": "INFO", "msg": "a %s", "args": ("b",), **more})


@pytest.fixture
def inside():
    token = request_id.set("r1")
    yield
    request_id.reset(token)


def test_lines_have_the_id(inside):
    assert TextLines().format(record()).endswith(" INFO trivet.x: a b (request r1)")
    assert TextLines().format(record(msg="a r1", args=())).endswith(" trivet.x: a r1")


def test_json_lines(inside):
    line = json.loads(JsonLines().format(record(created=1.5, msecs=500, fields={"seconds": 2.0})))
    assert line == {
        "timestamp": "1970-01-01T00:00:01.500Z",
        "level": "INFO",
        "target": "trivet.x",
        "message": "a b",
        "request_id": "r1",
        "seconds": 2.0,
    }
    try:
        raise ValueError("two\nlines")
    except ValueError:
        text = JsonLines().format(record(exc_info=sys.exc_info()))
    assert "\n" not in text and json.loads(text)["exception"].endswith("ValueError: two\nlines")


def test_outside_of_requests():
    assert TextLines().format(record()).endswith("INFO trivet.x: a b")
    assert "request_id" not in json.loads(JsonLines().format(record()))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": SECRET, "max_tokens": 10}),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": SECRET}], max_tokens=10)),
        ("/completion", {"prompt": SECRET, "n_predict": 10}),
        ("/", {"inputs": SECRET, "parameters": {"max_new_tokens": 10}}),
    ],
)
def test_one_line_a_request(serve, caplog, path, body, stream):
    """With what it took, without its text."""
    caplog.set_level("INFO")
    url = serve(FakeLLM(), log_requests=True)
    response = post(url, path, body | {"stream": stream}, headers={"X-Request-Id": "r1"})
    assert response.status_code == 200
    until(lambda: any(entry.name == "trivet.access" for entry in caplog.records))
    [entry] = [entry for entry in caplog.records if entry.name == "trivet.access"]
    assert entry.getMessage().startswith(f"POST {path} 200 ") and entry.getMessage().endswith(" r1")
    assert "generated_tokens=10 finish_reason=length queue_seconds=0.0" in entry.getMessage()
    assert {"prompt_tokens", "cached_tokens", "prefill_seconds", "decode_seconds", "first_token_seconds"} <= set(
        entry.fields
    )
    assert (entry.fields["status"], entry.fields["path"], entry.fields["generated_tokens"]) == (200, path, 10)
    assert SECRET not in caplog.text and "Lily" not in caplog.text


def test_several_prompts_make_one_line(serve, caplog):
    caplog.set_level("INFO")
    url = serve(FakeLLM(), log_requests=True)
    post(url, "/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 3})
    until(lambda: "generated_tokens=12 finish_reason=length,length,length,length" in caplog.text)


def test_lines_cannot_be_forged(serve, caplog):
    caplog.set_level("INFO")
    get(serve(FakeLLM(), log_requests=True), "/x%0AINFO%20forged")
    until(lambda: "GET /x%0AINFO%20forged 404" in caplog.text)


def test_the_engines_log_is_in_the_same_file(tmp_path):
    """With its level and its form."""
    file = tmp_path / "log"
    options = LogOptions(level="INFO", format="json", file=str(file))

    async def run():
        client = ProcessClient(EngineConfig(model="{}"), "tests.server.test_logs:talkative", options)
        await client.start()
        await client.close()

    asyncio.run(run())
    [line] = [json.loads(line) for line in file.read_text().splitlines()]
    assert (line["level"], line["target"], line["message"]) == ("INFO", "loader", "loading")


def talkative(config):
    from tests.engine.fake import make

    logging.getLogger("loader").debug("not this")
    logging.getLogger("loader").info("loading")
    return make(config)


@pytest.mark.parametrize("flags", [["--log-format", "json"], ["--json-output"], ["--log-jsonl"]])
def test_flags(flags):
    assert listen_options(read_settings(LAUNCHERS["serve"], flags)).log_format == "json"


def test_the_servers_log():
    code = (
        "import logging, trivet.server.launch as launch\n"
        "def fail(*_): logging.getLogger('x').warning('here'); raise SystemExit(0)\n"
        "launch.check_certificate = fail\n"
        "from trivet.cli.main import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, "serve", "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "here"


def test_a_failure_tells_its_request(serve, caplog, monkeypatch):
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(TextLines())
    logging.getLogger("trivet").addHandler(handler)
    try:
        url = serve(llm := FakeLLM())
        monkeypatch.setattr(llm.engine, "submit", lambda request: 1 / 0)
        assert post(url, "/v1/completions", ask(3), headers={"X-Request-Id": "r7"}).status_code == 500
        until(lambda: "(request r7)" in stream.getvalue())
    finally:
        logging.getLogger("trivet").removeHandler(handler)
