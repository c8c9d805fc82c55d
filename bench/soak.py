"""Many short requests, a third of them cancelled at random, then a look at what they have left behind.

    python bench/soak.py [--requests 20000] [--clients 32] [--seed 0] [--engine process|thread]

A server over the engine's own process, whose runtime is the tests' (its tokens are a hash of what its paged cache
holds, so that a block used wrongly shows); asked over HTTP, streamed and not, with prompts that share beginnings and
a cache that is too small, so that there are hits, preemptions and reuse. Fails when a request fails or its text is
not the same as the first time, when blocks, tasks or file descriptors are left, or the memory of a process grows by
more than 1 % after the first tenth of the requests. With the engine in a thread, its pool of blocks is checked too.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import sys
import time
from pathlib import Path

import httpx
import msgspec
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["PYTHONPATH"] = sys.path[0]

from tests.engine.fake import Options, make
from tests.server.fake_llm import byte_model
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.engine.config import EngineConfig
from trivet.engine.inprocess import InProcessClient
from trivet.engine.process import ProcessClient
from trivet.server.app import create_app
from trivet.server.launch import Server, bind
from trivet.server.options import ListenOptions

BLOCKS = 60
KINDS = 200


def body(kind: int) -> dict[str, object]:
    """One of KINDS requests."""
    chance = random.Random(kind)
    prompt = random.Random(kind % 8).choices(range(97), k=64)[: chance.randrange(1, 65)]
    prompt += chance.choices(range(97), k=chance.randrange(1, 20))
    return {
        "prompt": prompt,
        "max_tokens": chance.randrange(1, 24),
        "seed": kind,
        "n": chance.choice([1, 1, 1, 2]),
        "stream": bool(kind % 2),
        "ignore_eos": True,
    }


async def ask(client: httpx.AsyncClient, asked: dict[str, object], patience: float) -> bytes | None:
    """The answer's body without what names the request; None if patience ended before."""
    pieces: list[str] = [""] * 2
    try:
        async with asyncio.timeout(patience), client.stream("POST", "/v1/completions", json=asked) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
            if not asked["stream"]:
                choices = msgspec.json.decode(await response.aread())["choices"]
                return "|".join(choice["text"] for choice in choices).encode()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    for choice in msgspec.json.decode(line[6:])["choices"]:
                        pieces[choice["index"]] += choice["text"]
    except TimeoutError:
        return None
    return "|".join(pieces[: asked["n"]]).encode()  # type: ignore[misc]


def measure(processes: list[psutil.Process]) -> list[tuple[int, int]]:
    """Of each process: resident bytes of its own (USS), open files."""
    gc.collect()
    # What the C library keeps of freed memory for later is not growth.
    ctypes.CDLL(None).malloc_trim(0)
    return [(process.memory_full_info().uss, process.num_fds()) for process in processes]


async def serve_and_ask(options: argparse.Namespace) -> list[str]:
    """What went wrong."""
    runtime = msgspec.json.encode(Options(keep_plans=False)).decode()
    config = EngineConfig(model=runtime, num_blocks=BLOCKS, block_size=4, max_num_seqs=24)
    thread = options.engine == "thread"
    engine = InProcessClient(config, make) if thread else ProcessClient(config, "tests.engine.fake:make")
    llm = AsyncLLM(EngineArgs(byte_model(), served_model_name="hash"), engine)
    await llm.start()
    listener = bind("127.0.0.1", 0)
    server = Server(create_app(llm), ListenOptions(), lambda: None)
    serving = asyncio.create_task(server.serve([listener]))
    own = psutil.Process()
    processes = [own, *own.children()]
    wrong: list[str] = []
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, *sys.argv, "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert client.stdin is not None and client.stdout is not None

    async def ask_until(until: int) -> list[tuple[int, int]]:
        client.stdin.write(f"{until}\n".encode())
        wrong.extend(msgspec.json.decode(await client.stdout.readline()))
        for _ in range(100):
            await asyncio.sleep(0.05)
            stats = llm.stats()
            if not (stats.running or stats.waiting or stats.blocks_used or server.server_state.connections):
                break
        else:
            wrong.append(f"something is left: {stats}, {len(server.server_state.connections)} connections")
        if isinstance(engine, InProcessClient):
            assert engine._engine is not None
            engine._engine.scheduler.check_integrity()
        if server.server_state.tasks or len(asyncio.all_tasks()) > tasks:
            wrong.append(f"tasks are left: {asyncio.all_tasks()}")
        return measure(processes)

    tasks = len(asyncio.all_tasks())
    await asyncio.sleep(0.5)
    tasks = max(tasks, len(asyncio.all_tasks()))
    began = time.monotonic()
    tenth = options.requests // 10
    objects = len(gc.get_objects())
    marks = [await ask_until(options.requests - step * tenth) for step in range(1, 11)]
    seconds = time.monotonic() - began
    for index, which in enumerate(("server", "engine")[: len(processes)]):
        before, after = marks[0][index], marks[-1][index]
        growth = after[0] / before[0] - 1
        series = " ".join(f"{mark[index][0] / 1e6:.1f}" for mark in marks)
        print(f"{which}: {series} MB; {growth:+.2%} after the first {tenth}; files {before[1]} -> {after[1]}")
        if growth > 0.01:
            wrong.append(f"the memory of the {which} grew by {growth:.2%}")
        if after[1] > before[1]:
            wrong.append(f"the {which} has {after[1] - before[1]} more open files")
    stats = llm.stats()
    print(f"Python objects of the server: {objects} at the start, {len(gc.get_objects())} at the end")
    print(
        f"{options.requests} requests in {seconds:.0f} s; {stats.steps} steps, "
        f"{stats.preemptions} preemptions, {stats.cached_tokens} of {stats.queried_tokens} tokens from the cache"
    )
    client.stdin.close()
    await client.wait()
    server.should_exit = True
    await serving
    await llm.close()
    return wrong


async def ask_all(options: argparse.Namespace) -> None:
    """The client, a process of its own: asks until as many requests are left as a line says."""
    chance = random.Random(options.seed)
    first: dict[int, bytes] = {}
    left = options.requests
    cancelled = 0

    async def client_of_many(client: httpx.AsyncClient, until: int, wrong: list[str]) -> None:
        nonlocal left, cancelled
        while left > until:
            left -= 1
            kind = chance.randrange(KINDS)
            patience = chance.uniform(0, 0.2) if chance.random() < 0.33 else 60
            try:
                answer = await ask(client, body(kind), patience)
            except Exception as error:
                wrong.append(f"a request failed: {error!r}")
                continue
            if answer is None:
                cancelled += 1
            elif first.setdefault(kind, answer) != answer:
                wrong.append(f"request {kind} had another text than the first time")

    for line in sys.stdin:
        wrong: list[str] = []
        async with httpx.AsyncClient(base_url=options.url, timeout=60) as client:
            await asyncio.gather(*(client_of_many(client, int(line), wrong) for _ in range(options.clients)))
        print(msgspec.json.encode(wrong).decode(), flush=True)
    print(f"{cancelled} requests were cancelled", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["process", "thread"], default="process")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.url:
        asyncio.run(ask_all(options))
        return 0
    wrong = asyncio.run(serve_and_ask(options))
    for text in wrong[:20]:
        print(f"WRONG: {text}")
    print("failed" if wrong else "nothing was left behind")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
