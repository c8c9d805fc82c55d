"""Both clients: streams, cancellation, refusal, overload; and a child process that dies, hangs or never starts."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.engine.fake import Options, Result, make, plain, request
from trivet.engine.client import EngineClient
from trivet.engine.config import EngineConfig
from trivet.engine.inprocess import InProcessClient
from trivet.engine.process import ProcessClient
from trivet.engine.request import EngineRequest
from trivet.errors import EngineError, ModelError, OverloadedError, RequestError
from trivet.runtime.base import Runtime

MAX_LEN = 256
ROOT = Path(__file__).parents[2]
Start = Callable[..., AbstractAsyncContextManager[EngineClient]]


def config(options: Options | None = None, **fields: object) -> EngineConfig:
    return EngineConfig(model=msgspec.json.encode(options or Options()).decode(), **fields)


def client(kind: str, settings: EngineConfig) -> EngineClient:
    return InProcessClient(settings, make) if kind == "thread" else ProcessClient(settings, "tests.engine.fake:make")


@pytest.fixture(params=["thread", "process"])
def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Start:
    return starter(request.param, monkeypatch)


@pytest.fixture
def start_process(monkeypatch: pytest.MonkeyPatch) -> Start:
    return starter("process", monkeypatch)


def starter(kind: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    @asynccontextmanager
    async def started(options: Options | None = None, **fields: object) -> AsyncIterator[EngineClient]:
        c = client(kind, config(options, **fields))
        await c.start()
        try:
            yield c
        finally:
            await c.close()

    return started


async def collect(c: EngineClient, r: EngineRequest) -> Result:
    result = Result()
    async for chunk in c.submit(r):
        result.add(chunk)
    return result


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def many(count: int, **fields: object) -> list[EngineRequest]:
    return [request([1] * 20 + [i], f"{i}", **({"max_tokens": 30, "seed": i} | fields)) for i in range(count)]


async def settled(c: EngineClient, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while c.stats().running or c.stats().waiting or c.stats().blocks_used:
        assert time.monotonic() < deadline, c.stats()
        await asyncio.sleep(0.01)


async def test_streams_bring_what_a_request_gets_alone(start: Start) -> None:
    async with start(max_num_seqs=4, block_size=4, num_blocks=70) as c:
        assert (c.info.name, c.info.max_model_len, c.info.num_blocks) == ("fake", MAX_LEN, 70)
        assert c.healthy()
        requests = many(12, logprobs=0, prompt_logprobs=0)
        assert await asyncio.gather(*(collect(c, r) for r in requests)) == [plain(r, MAX_LEN) for r in requests]
        await settled(c)
        assert c.stats().generated_tokens == sum(len(plain(r, MAX_LEN).tokens) for r in requests)


async def test_the_first_chunk_tells_the_times_and_the_hits(start: Start) -> None:
    async with start() as c:
        await collect(c, request([1] * 40, "a"))
        chunks = [chunk async for chunk in c.submit(request([1] * 40, "b", max_tokens=3))]
    first, later = chunks[0], chunks[1:]  # Tokens that pile up on the way come in one chunk.
    assert first.cached_tokens == 32 and all(chunk.cached_tokens == 0 for chunk in later)
    assert 0 < first.queued_at <= first.scheduled_at <= first.emitted_at
    assert all(first.emitted_at <= chunk.emitted_at and chunk.scheduled_at == 0 for chunk in later)


@pytest.mark.parametrize("how", ["aclose", "drop", "never read"])
async def test_a_stream_that_is_left_is_cancelled(start: Start, how: str) -> None:
    async with start(Options(step_seconds=0.01)) as c:
        stream = c.submit(request([1, 2, 3], "a", max_tokens=200))
        if how != "never read":
            await anext(stream)
        if how == "aclose":
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        await asyncio.sleep(0.1)
        del stream
        await settled(c, seconds=1.5)
        assert await collect(c, request([1, 2, 3], "a")) == plain(request([1, 2, 3], "a"), MAX_LEN)


async def test_a_request_id_may_be_used_again_and_at_once(start: Start) -> None:
    async with start(Options(step_seconds=0.002)) as c:
        for first in range(10):
            stream = c.submit(request([first], "same", max_tokens=200))
            assert (await anext(stream)).request_id == "same"
            await stream.aclose()
            r = request([first, 1], "same", max_tokens=3)
            assert await asyncio.gather(collect(c, r), collect(c, r)) == [plain(r, MAX_LEN)] * 2


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(start: Start) -> None:
    async with start(Options(step_seconds=0.01), max_num_seqs=2, max_queue=1) as c:
        streams = [c.submit(r) for r in many(3)]
        with pytest.raises(OverloadedError, match="3 requests run or wait") as raised:
            c.submit(request([1], "x"))
        assert raised.value.retry_after >= 1
        await streams[0].aclose()
        await asyncio.sleep(0)
        assert await collect(c, request([1], "x")) == plain(request([1], "x"), MAX_LEN)


async def test_many_waiting_tokens_refuse_at_once(start: Start) -> None:
    """Those of a prompt count until its first token; one prompt may always wait, however long."""
    async with start(Options(step_seconds=0.02), max_queued_tokens=100) as c:
        for _ in range(2):
            streams = [c.submit(request([i] * 60, max_tokens=2)) for i in range(1)]
            with pytest.raises(OverloadedError, match=r"prompts of 60 tokens wait \(this one has 41\)"):
                c.submit(request([1] * 41))
            c.check_room()
            streams.append(c.submit(request([1] * 40, max_tokens=2)))
            with pytest.raises(OverloadedError):
                c.check_room()
            for stream in streams:
                assert sum([len(chunk.tokens) async for chunk in stream]) == 2
            await anext(c.submit(request([2] * 120)))


@pytest.mark.parametrize("length", [60, 120])
async def test_the_sequences_of_a_prompt_wait_with_one_prompt(start: Start, length: int) -> None:
    async with start(Options(step_seconds=0.02), max_queued_tokens=100) as c:
        siblings = [request([1] * length, f"{i}", group="g", seed=i, max_tokens=2) for i in range(3)]
        streams = [c.submit(r) for r in siblings]
        with pytest.raises(OverloadedError, match=f"prompts of {length} tokens wait"):
            c.submit(request([1] * 60, group="h"))
        for stream in streams:
            await anext(stream)
        await anext(c.submit(request([1] * 60, group="h")))


@pytest.mark.parametrize(
    ("r", "error"),
    [
        (request([1] * 300), "300 tokens; max_model_len is 256"),
        (request([1] * 200, max_tokens=100), "200 tokens and max_tokens 100"),
        (request([100]), "prompt holds 100"),
    ],
)
async def test_what_can_never_run_is_refused_at_once(start: Start, r: EngineRequest, error: str) -> None:
    async with start() as c:
        with pytest.raises(RequestError, match=error):
            c.submit(r)


async def test_what_cannot_be_sent_costs_no_other_request(start_process: Start) -> None:
    async with start_process(max_num_seqs=1, max_queue=3) as c:
        good = many(3)
        tasks = [asyncio.create_task(collect(c, r)) for r in good]
        for wrong in ({"temperature": 2**70}, {"logit_bias": {1: -(2**70)}}, {"tenant": "\ud800"}):
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="integers of 64 bits and valid text only"):
                c.submit(request([1], "wrong", **wrong))
        async with asyncio.timeout(10):
            assert await asyncio.gather(*tasks) == [plain(r, MAX_LEN) for r in good]
        await settled(c)


async def test_a_request_that_breaks_a_step_fails_alone(start: Start) -> None:
    async with start(Options(fail=90)) as c:
        good = [r for r in many(4) if 90 not in plain(r, MAX_LEN).tokens]
        *results, bad = await asyncio.gather(*(collect(c, r) for r in [*good, request([5, 90, 5], "bad")]))
        assert results == [plain(r, MAX_LEN) for r in good]
        assert bad.finish_reason == "error"
        assert "cannot compute token 90" in bad.error
        assert c.healthy()


@pytest.mark.parametrize(
    ("options", "fields", "kind", "text"),
    [
        (Options(damaged=True), {}, ModelError, "wrong magic b'XXXX', expected b'GGUF'$"),
        (Options(), {"max_model_len": 1000}, EngineError, "the model's context length 256, got 1000$"),
    ],
)
async def test_errors_at_start_are_the_engines_own(
    start: Start, options: Options, fields: dict, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        async with start(options, **fields):
            pass
    assert not children()


async def test_a_start_that_is_cancelled_leaves_no_error_behind() -> None:
    go, loop, found = threading.Event(), asyncio.get_running_loop(), []

    def load(_: EngineConfig) -> Runtime:
        go.wait()
        raise ModelError("no model")

    loop.set_exception_handler(lambda _, context: found.append(context))
    engine = InProcessClient(config(), load)
    start = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    go.set()
    await engine.close()
    await asyncio.sleep(0)
    del engine
    gc.collect()
    assert not found


async def test_closing_ends_open_streams(start: Start) -> None:
    async with start(Options(step_seconds=0.01)) as c:
        stream = c.submit(request([1, 2], "a", max_tokens=200))
        await anext(stream)
    rest = [chunk async for chunk in stream]
    assert rest[-1].finish_reason == "abort"
    assert not c.healthy()
    with pytest.raises(EngineError, match="not running"):
        c.submit(request([1], "b"))
    assert not children()


async def test_idle_takes_no_time(start: Start) -> None:
    async with start() as c:
        await collect(c, request([1], "a"))
        await settled(c)

        def used() -> float:
            own = resource.getrusage(resource.RUSAGE_SELF)
            return own.ru_utime + own.ru_stime + sum(sum(p.cpu_times()[:2]) for p in children())

        before = used()
        await asyncio.sleep(0.5)
        assert used() - before < 0.05


async def test_streams_go_on_when_the_process_is_killed(start_process: Start) -> None:
    async with start_process(Options(step_seconds=0.005), max_num_seqs=5) as c:
        requests = many(8, max_tokens=60, logprobs=0, prompt_logprobs=0, mirostat=2)
        tasks = [asyncio.create_task(collect(c, r)) for r in requests]
        await asyncio.sleep(0.1)
        for _ in range(2):
            children()[0].kill()
            while c.healthy():
                await asyncio.sleep(0.001)
            while not c.healthy():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        assert await asyncio.gather(*tasks) == [plain(r, MAX_LEN) for r in requests]
        await settled(c)
        assert c.stats().generated_tokens >= sum(len(plain(r, MAX_LEN).tokens) for r in requests)


async def test_a_process_killed_at_a_prompt_costs_no_state(start_process: Start) -> None:
    async with start_process(Options(step_seconds=0.03), max_num_batched_tokens=4) as c:
        r = request([1] * 40, max_tokens=9, mirostat=2, report_progress=True)
        result = Result()
        kills = 0
        async for chunk in c.submit(r):
            result.add(chunk)
            if (kills == 0 and len(result.tokens) >= 4) or (kills == 1 and chunk.prompt_done and result.tokens):
                children()[0].kill()
                kills += 1
        assert (kills, result) == (2, plain(r, MAX_LEN))


async def test_kills_at_random_moments_cost_no_token(start_process: Start) -> None:
    """While it steps, while it loads, while it recomputes; `bench/kills.py` has the long run."""
    moments = random.Random(1)
    async with start_process(Options(step_seconds=0.01, load_seconds=0.3), max_num_seqs=24, num_blocks=300) as c:
        requests = many(32, max_tokens=150, logprobs=0, temperature=1)
        tasks = [asyncio.create_task(collect(c, r)) for r in requests]
        for _ in range(4):
            await asyncio.sleep(moments.uniform(0, 0.8))
            for child in children():
                child.kill()
        assert await asyncio.gather(*tasks) == [plain(r, MAX_LEN) for r in requests]
        await settled(c)


async def test_who_is_killed_while_it_is_tried_alone_is_not_guilty(start_process: Start) -> None:
    """Two kills make suspects of all, the third comes while the first of them is tried."""
    async with start_process(Options(step_seconds=0.05), max_num_seqs=5) as c:
        requests = many(3, max_tokens=12)
        tasks = [asyncio.create_task(collect(c, r)) for r in requests]
        for _ in range(3):
            while not c.healthy():
                await asyncio.sleep(0.001)
            children()[0].kill()
            while c.healthy():
                await asyncio.sleep(0.001)
        assert await asyncio.gather(*tasks) == [plain(r, MAX_LEN) for r in requests]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", [Options(crash=90), Options(hang=90), Options(lose=90)])
async def test_a_request_that_kills_the_engine_fails_alone(start_process: Start, options: Options, alone: bool) -> None:
    timeout = 0.5 if options.hang >= 0 else 60
    async with start_process(options, step_timeout=timeout) as c:
        good = [r for r in many(0 if alone else 3) if 90 not in plain(r, MAX_LEN).tokens]
        *results, bad = await asyncio.gather(*(collect(c, r) for r in [*good, request([5, 90, 5], "bad")]))
        assert results == [plain(r, MAX_LEN) for r in good]
        assert bad.finish_reason == "error"
        reasons = {options.hang: "made no progress", options.crash: "died of signal 9", options.lose: "exit code 1"}
        assert reasons[90] in bad.error
        assert await collect(c, request([1], "after")) == plain(request([1], "after"), MAX_LEN)


async def test_an_engine_that_cannot_start_again_ends_its_streams(start_process: Start, tmp_path: Path) -> None:
    flag = tmp_path / "damaged"
    async with start_process(Options(step_seconds=0.01, damaged_if=str(flag))) as c:
        stream = c.submit(request([1], "a", max_tokens=200))
        await anext(stream)
        flag.touch()
        children()[0].send_signal(signal.SIGSEGV)
        rest = [chunk async for chunk in stream]
        assert rest[-1].finish_reason == "error"
        assert "wrong magic" in rest[-1].error
        assert not c.healthy()
        with pytest.raises(EngineError, match="not running"):
            c.submit(request([1], "b"))


PARENT = """
import asyncio, os, sys
from tests.engine.test_clients import Options, client, config, children, request
async def main():
    c = client("process", config(Options()))
    await c.start()
    print(children()[0].pid, c._directory.name, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_the_child_does_not_outlive_its_parent() -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=env, text=True)
    pid, directory = parent.stdout.readline().split()
    child = psutil.Process(int(pid))
    assert Path(directory).stat().st_mode & 0o777 == 0o700
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(5)
    assert not Path(directory).exists()


async def test_the_child_imports_what_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the current directory has by that name: sources that are not built, in a checkout."""
    (tmp_path / "trivet").mkdir()
    (tmp_path / "trivet/__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.chdir(tmp_path)
    c = client("process", config())
    await c.start()
    r = request([1, 2, 3], "a", max_tokens=5)
    assert await collect(c, r) == plain(r, MAX_LEN)
    await c.close()


def test_a_thread_serves_one_event_loop_after_another() -> None:
    c = client("thread", config(Options(step_seconds=0.002)))
    asyncio.run(c.start())
    r = request([1, 2, 3], "a", max_tokens=5)

    async def leave() -> None:
        await anext(c.submit(request([9], "left", max_tokens=200)))

    for _ in range(3):
        assert asyncio.run(collect(c, r)) == plain(r, MAX_LEN)
        asyncio.run(leave())

    async def meanwhile() -> None:
        stream = c.submit(r)
        with pytest.raises(EngineError, match="open streams in another event loop"):
            await asyncio.to_thread(asyncio.run, collect(c, r))
        await stream.aclose()

    asyncio.run(meanwhile())
    asyncio.run(settled(c))
    asyncio.run(c.close())


def test_streams_of_a_loop_that_died_are_cancelled() -> None:
    c = client("thread", config(Options(step_seconds=0.002)))
    asyncio.run(c.start())
    loop = asyncio.new_event_loop()

    async def begin() -> object:
        stream = c.submit(request([1], "a", max_tokens=200))
        await anext(stream)
        return stream

    stream = loop.run_until_complete(begin())
    loop.close()
    r = request([1, 2, 3], "b")
    assert asyncio.run(collect(c, r)) == plain(r, MAX_LEN)
    asyncio.run(settled(c, seconds=1))
    assert stream is not None
    asyncio.run(c.close())
