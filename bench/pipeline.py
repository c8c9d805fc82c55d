"""Speed of everything that is not a kernel: scheduler, process boundary, detokeniser, dialects, events.

    python bench/pipeline.py [--streams 64] [--tokens 1000] [--rounds 3] [--only completions,tgi] [--model PATH]

A real server, its engine in a child process, with a runtime that has every token at once. CPU time per token and
process is what to compare on a machine that others use too. Run it from the root of the repository.

An engine that is ahead of its clients has their events merged. --step-ms has a step take that long, as a model does:
where the server keeps up, there is an event for each token, and the CPU times are those of so many events.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import socket
import subprocess
import sys
import time
from statistics import median
from typing import Any

import msgspec
import numpy as np
import psutil

from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.engine.config import EngineConfig
from trivet.engine.plan import StepOutput, StepPlan
from trivet.engine.process import ProcessClient
from trivet.engine.request import EngineRequest, TokenLogprob
from trivet.engine.scheduler import Scheduler
from trivet.runtime.base import RuntimeInfo
from trivet.sampling.params import SamplingParams
from trivet.server.launch import listening, run
from trivet.server.options import ListenOptions, ServerOptions
from trivet.text.tokenizer import Tokenizer

TEXT = """It was the year when the old mill by the river began to turn again, and nobody in the village could say who
had mended its wheel. "Perhaps," said the baker, "it is the wind." But the wheel turned, and the flour was white. """

STEP_MS = "TRIVET_BENCH_STEP_MS"
"""The environment variable that tells the engine's process --step-ms."""

STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", {"prompt": "Once", "ignore_eos": True, "max_tokens": 0}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Go"}], "max_tokens": 0}),
    "tgi": ("/generate_stream", {"inputs": "Once", "parameters": {"max_new_tokens": 0}}),
    "llama.cpp": ("/completion", {"prompt": "Once", "ignore_eos": True, "n_predict": 0}),
}


class InstantRuntime:
    """Writes TEXT for ever."""

    def __init__(self, config: EngineConfig) -> None:
        tokenizer = Tokenizer.load(config.model)
        self.tokens = np.array(tokenizer.encode(TEXT, add_special=False), np.int32)
        self.step_seconds = float(os.environ[STEP_MS]) / 1e3
        self.info = RuntimeInfo("instant", "llama", "f32", 8192, "none", 0, tokenizer.vocab_size, 1)

    def block_bytes(self, block_size: int) -> int:
        return block_size

    def available_bytes(self) -> int:
        return 1 << 30

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        pass

    def run(self, plan: StepPlan) -> StepOutput:
        time.sleep(self.step_seconds)
        tokens = self.tokens[plan.positions[plan.logit_rows] % len(self.tokens)]
        logprobs = [
            None if row.chain.params.logprobs is None else TokenLogprob(token, -0.5, 1, [])
            for token, row in zip(tokens.tolist(), plan.samples, strict=True)
        ]
        return StepOutput(tokens, logprobs, [None] * len(tokens))

    def close(self) -> None:
        pass


def serve(model: str | None) -> None:
    """Serve until a signal comes; the first line of output is the URL."""
    args = EngineArgs(model, num_gpu_blocks_override=65536, max_model_len=8192)
    client = ProcessClient(args.engine_config(), "bench.pipeline:InstantRuntime")
    listen = ListenOptions(hosts=("127.0.0.1",), port=0)
    with listening(listen) as (listeners, [url]):
        asyncio.run(run(AsyncLLM(args, client), ServerOptions(), listen, listeners, lambda: print(url, flush=True)))


def request(stream: str, tokens: int) -> bytes:
    """As it goes over the wire; the connection ends with the answer."""
    path, body = STREAMS[stream]
    text = msgspec.json.encode(body | {"stream": True}).decode()
    for name in ("max_tokens", "max_new_tokens", "n_predict"):
        text = text.replace(f'"{name}":0', f'"{name}":{tokens}')
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def read_streams(address: tuple[str, int], message: bytes, count: int) -> int:
    """Send the request `count` times side by side; the number of events in all answers."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(address)
        connection.sendall(message)
        selector.register(connection, selectors.EVENT_READ, [b""])
    events = 0
    while selector.get_map():
        for key, _ in selector.select():
            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                continue
            # What is cut in two by the end of a read is counted with the next.
            read = key.data[0] + data
            events += read.count(b"data: ")
            key.data[0] = read[-5:]
    return events


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def schedule_microseconds(streams: int, steps: int = 2000) -> tuple[float, float]:
    """Of one step's `schedule` and of its `commit`, while all decode."""
    config = EngineConfig(model="", max_model_len=8192, max_num_seqs=streams)
    scheduler = Scheduler(config, 65536)
    for i in range(streams):
        scheduler.add(
            EngineRequest(request_id=str(i), prompt=[1, 2, 3, i], params=SamplingParams(max_tokens=8000), seed=1)
        )
    output = StepOutput(np.full(streams, 5, np.int32), [None] * streams, [None] * streams)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        scheduler.schedule()
        scheduled = time.perf_counter()
        scheduler.commit(output)
        times.append((scheduled - start, time.perf_counter() - scheduled))
    schedule, commit = map(median, zip(*times, strict=True))
    return schedule * 1e6, commit * 1e6


def measure(streams: list[str], count: int, tokens: int, rounds: int, model: str | None) -> None:
    schedule, commit = schedule_microseconds(count)
    print(f"schedule: {schedule:.0f} µs, commit: {commit:.0f} µs a step of {count} sequences")
    command = [sys.executable, "-m", "bench.pipeline", "--serve", *(["--model", model] if model else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().strip().removeprefix("http://").split(":")
        api = psutil.Process(server.pid)
        [engine] = api.children()
        print(f"{'µs of CPU per token':12} {'engine':>8} {'API':>8} {'client':>8} {'events':>8} {'tokens/s':>9}")
        try:
            for stream in streams:
                message = request(stream, tokens)
                read_streams((host, int(port)), request(stream, 20), count)
                rows = []
                for _ in range(rounds):
                    before = [cpu_seconds(engine), cpu_seconds(api), time.process_time(), time.perf_counter()]
                    events = read_streams((host, int(port)), message, count)
                    after = [cpu_seconds(engine), cpu_seconds(api), time.process_time(), time.perf_counter()]
                    rows.append([(b - a) / (count * tokens) for a, b in zip(before, after, strict=True)] + [events])
                on_engine, on_api, on_client, wall, events = map(median, zip(*rows, strict=True))
                times = "".join(f"{seconds * 1e6:9.1f}" for seconds in (on_engine, on_api, on_client))
                print(f"{stream:19}{times} {events / (count * tokens):8.2f} {1 / wall:9,.0f}")
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64, help="side by side")
    parser.add_argument("--tokens", type=int, default=1000, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="the median of which is shown")
    parser.add_argument("--only", default=",".join(STREAMS), help="kinds of streams")
    parser.add_argument("--model", default=None, help="whose tokenizer writes; the built-in model's unless given")
    parser.add_argument("--step-ms", type=float, default=0.0, help="that a step of the engine takes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.model)
    else:
        os.environ[STEP_MS] = str(args.step_ms)
        measure(args.only.split(","), args.streams, args.tokens, args.rounds, args.model)


if __name__ == "__main__":
    main()
