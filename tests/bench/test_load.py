import json
import time

import pytest

from tests.bench.conftest import END, SSE, ScriptedServer, chunk
from trivet.bench.client import Client
from trivet.bench.dialects import DIALECTS, Options
from trivet.bench.load import Request, Target, run

OPENAI = [
    b'data: {"choices": [{"text": "a"}]}\n\n',
    b": ping\n\n",
    b'data: {"choices": [{"text": "", "finish_reason": "length"}]}\r\n\r\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n',
    b"data: [DONE]\n\n",
]
CHAT = [b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n', *OPENAI[2:]]
TGI = [
    b'data:{"index": 1, "token": {"id": 1, "text": "a"}, "generated_text": null, "details": null}\n\n',
    b'data:{"index": 2, "token": {"id": 2, "text": "b"}, "generated_text": "ab", '
    b'"details": {"generated_tokens": 3, "input_length": 5}}\n\n',
]
LLAMACPP = [
    b'data: {"content": "a", "stop": false, "tokens_predicted": 1, "tokens_evaluated": 5}\n\n',
    b'data: {"content": "b", "stop": false, "tokens_predicted": 2, "tokens_evaluated": 5}\n\n',
    b'data: {"content": "", "stop": true, "tokens_predicted": 3, "tokens_evaluated": 5}\n\n',
]
STREAMS = {"openai": OPENAI, "openai-chat": CHAT, "tgi": TGI, "llamacpp": LLAMACPP}


def answer(*events, wait=0.0):
    return [SSE, *[step for event in events for step in (wait, chunk(event))], END]


def target(server, dialect="openai", **options):
    return Target(Client(server.url, timeout=10), DIALECTS[dialect], Options("m", **options))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialects_stream_is_read(dialect):
    async with ScriptedServer(answer(*STREAMS[dialect], wait=0.01)) as server:
        record = await target(server, dialect).ask(Request("p", 9, 3))
        assert record.failure is None
        assert (len(record.times), record.prompt_tokens, record.output_tokens) == (2, 5, 3)
        assert record.times == sorted(record.times)
        assert record.start < record.times[0]


@pytest.mark.parametrize(
    ("dialect", "options", "path", "body"),
    [
        (
            "openai",
            {"temperature": 0.0},
            "/v1/completions",
            {
                "prompt": "p",
                "model": "m",
                "max_tokens": 3,
                "stream": True,
                "stream_options": {"include_usage": True},
                "ignore_eos": True,
                "temperature": 0.0,
            },
        ),
        (
            "openai-chat",
            {"ignore_eos": False},
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "p"}],
                "model": "m",
                "max_tokens": 3,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ),
        ("tgi", {}, "/generate_stream", {"inputs": "p", "parameters": {"max_new_tokens": 3, "details": True}}),
        (
            "tgi",
            {"temperature": 0.0},
            "/generate_stream",
            {"inputs": "p", "parameters": {"max_new_tokens": 3, "details": True, "do_sample": False}},
        ),
        (
            "tgi",
            {"temperature": 0.5},
            "/generate_stream",
            {
                "inputs": "p",
                "parameters": {"max_new_tokens": 3, "details": True, "do_sample": True, "temperature": 0.5},
            },
        ),
        (
            "llamacpp",
            {"temperature": 0.5},
            "/completion",
            {"prompt": "p", "n_predict": 3, "stream": True, "ignore_eos": True, "temperature": 0.5},
        ),
    ],
)
async def test_what_is_asked(dialect, options, path, body):
    async with ScriptedServer(answer(*STREAMS[dialect])) as server:
        await target(server, dialect, **options).ask(Request("p", 9, 3))
        assert server.heads[0].startswith(f"POST {path} HTTP/1.1\r\n")
        assert json.loads(server.bodies[0]) == body


async def test_counts_that_a_server_leaves_out_are_what_was_asked_and_what_came():
    async with ScriptedServer(answer(*OPENAI[:3])) as server:
        record = await target(server).ask(Request("p", 9, 3))
        assert (record.prompt_tokens, record.output_tokens, record.failure) == (9, 2, None)


@pytest.mark.parametrize(
    ("dialect", "events", "kind", "message"),
    [
        ("openai", [OPENAI[0], b'data: {"error": {"message": "m"}}\n\n'], "error in stream", "m"),
        ("tgi", [TGI[0], b'data:{"error": "m", "error_type": "generation"}\n\n'], "error in stream", "m"),
        ("llamacpp", [b'data: {"error": {"code": 500, "message": "m"}}\n\n'], "error in stream", "m"),
        ("openai", [b"data: {\n\n"], "malformed answer", "Input data was truncated"),
        ("openai", [b'data: {"choices": 1}\n\n'], "malformed answer", "Expected `array"),
        ("openai", [b"data: [DONE]\n\n"], "empty answer", "without a token"),
        ("tgi", [OPENAI[3]], "empty answer", "without a token"),
    ],
)
async def test_streams_that_fail(dialect, events, kind, message):
    async with ScriptedServer(answer(*events)) as server:
        record = await target(server, dialect).ask(Request("p", 9, 3))
        assert record.failure.kind == kind
        assert message in str(record.failure)


async def test_no_more_at_a_time_than_wanted():
    async with ScriptedServer(answer(*OPENAI, wait=0.01)) as server:
        requests = [Request(str(i), 9, 3) for i in range(12)]
        seen = []
        records, seconds = await run(target(server), requests, concurrency=3, done=seen.append)
        assert server.most == server.connections == 3
        assert [json.loads(body)["prompt"] for body in server.bodies] == [str(i) for i in range(12)]
        assert sorted(seen, key=id) == sorted(records, key=id)
        assert seconds >= 4 * 0.05
        # Waiting for room is no part of a request's time.
        assert max(record.latency for record in records) < seconds / 2


async def test_requests_are_sent_when_they_are_due():
    async with ScriptedServer(answer(*OPENAI)) as server:
        begin = time.perf_counter()
        records, seconds = await run(target(server), [Request("p", 9, 3, due) for due in (0.0, 0.1, 0.3)])
        late = [record.start - begin - due for record, due in zip(records, (0.0, 0.1, 0.3), strict=True)]
        assert min(late) >= 0
        assert max(late) < 0.09
        assert seconds >= 0.3


@pytest.mark.parametrize("options", [{"concurrency": 2}, {}])
async def test_time_ends_a_run_and_nothing_is_cut_off(options):
    def requests():
        for i in range(10**6):
            yield Request("p", 9, 3, 0.0 if options else i * 0.02)

    async with ScriptedServer(answer(*OPENAI, wait=0.01)) as server:
        records, seconds = await run(target(server), requests(), duration=0.2, **options)
    assert 2 <= len(records) <= 11
    assert all(record.failure is None for record in records)
    assert records[-1].start < records[0].start + 0.2 <= records[0].start + seconds


async def test_failures_do_not_end_a_run():
    async with ScriptedServer(answer(*OPENAI), [None], answer(*OPENAI)) as server:
        bad = Target(Client(server.url), DIALECTS["tgi"], Options())
        records, _ = await run(bad, [Request("p", 9, 3)] * 3, concurrency=1)
        assert [record.failure.kind for record in records] == ["empty answer"] * 3
