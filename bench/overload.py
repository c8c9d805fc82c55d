"""What a server completes, and how soon it refuses, when four times as much comes as it can do.

    python bench/overload.py [--seconds 10] [--step-ms 10] [--seqs 32] [--queue 32] [--tokens 64] [--load 4]

The engine's runtime is the tests', a step of it takes --step-ms whatever is in it, so that the capacity is known:
seqs / step. First the peak: as many clients as may run and wait, each with its next request when one ends. Then
requests come at --load times the rate of that, whether or not others have ended. Reports completed tokens a second of
both, the latencies of what was accepted and of what was refused, and fails when the overloaded server completes less
than 95 % of the peak or its refusals are not 429 with Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["PYTHONPATH"] = sys.path[0]


@dataclass
class Tally:
    """Seconds that answers took, by what they were; refusals' own from the request's last byte to the status line."""

    completed: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def tokens_per_second(self, tokens: int, seconds: float) -> float:
        return len(self.completed) * tokens / seconds


async def serve(options: argparse.Namespace) -> None:
    import msgspec

    from tests.engine.fake import Options
    from tests.server.fake_llm import byte_model
    from trivet.api.args import EngineArgs
    from trivet.api.async_llm import AsyncLLM
    from trivet.engine.config import EngineConfig
    from trivet.engine.process import ProcessClient
    from trivet.server.launch import bind, run
    from trivet.server.options import ListenOptions, ServerOptions

    runtime = msgspec.json.encode(Options(step_seconds=options.step_ms / 1000, keep_plans=False)).decode()
    config = EngineConfig(model=runtime, max_num_seqs=options.seqs, max_queue=options.queue, num_blocks=8000)
    llm = AsyncLLM(EngineArgs(byte_model(), served_model_name="hash"), ProcessClient(config, "tests.engine.fake:make"))
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    await run(llm, ServerOptions(), ListenOptions(), [listener], lambda: print(port, flush=True))


async def ask(port: int, asked: dict[str, object], tally: Tally, until: float = float("inf")) -> None:
    """One streamed request on a connection of its own; what ends after `until` does not count as completed."""
    data = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + data)
        began = time.monotonic()
        status = await reader.readline()
        if b" 429 " in status:
            tally.refused.append(time.monotonic() - began)
            rest = await reader.read()
            if b"\nretry-after: " not in rest.lower():
                tally.wrong.append("429 without Retry-After")
        elif b" 200 " in status and (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            if time.monotonic() <= until:
                tally.completed.append(time.monotonic() - began)
        else:
            tally.wrong.append(f"{status!r}")
        writer.close()
    except OSError as error:
        tally.wrong.append(repr(error))


def body(number: int, tokens: int) -> dict[str, object]:
    prompt = random.Random(number).choices(range(97), k=32)
    return {"prompt": prompt, "max_tokens": tokens, "seed": number, "ignore_eos": True, "stream": True}


async def peak(port: int, options: argparse.Namespace) -> Tally:
    tally = Tally()
    end = time.monotonic() + options.seconds

    async def client(first: int) -> None:
        number = first
        while time.monotonic() < end:
            await ask(port, body(number, options.tokens), tally, end)
            number += 1000

    await asyncio.gather(*(client(number) for number in range(options.seqs + options.queue)))
    return tally


async def overload(port: int, options: argparse.Namespace, rate: float) -> Tally:
    tally = Tally()
    began = time.monotonic()
    warm = began + 2
    jobs = []
    for number in range(int(rate * (options.seconds + 2))):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        jobs.append(asyncio.create_task(ask(port, body(number, options.tokens), tally, warm + options.seconds)))
        if due < warm:
            tally.completed.clear()
    await asyncio.gather(*jobs)
    return tally


def percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    marks = [(share, ordered[int(share / 100 * (len(ordered) - 1))]) for share in (50, 95, 99, 100)]
    return ", ".join(f"p{share} {value * 1000:.1f}" for share, value in marks) + " ms"


async def measure(port: int, options: argparse.Namespace) -> int:
    at_peak = await peak(port, options)
    best = at_peak.tokens_per_second(options.tokens, options.seconds)
    rate = options.load * best / options.tokens
    print(f"peak: {best:.0f} tokens/s (the runtime's limit: {options.seqs / options.step_ms * 1000:.0f});", end=" ")
    print(f"latency {percentiles(at_peak.completed)}; {len(at_peak.refused)} refused", flush=True)
    over = await overload(port, options, rate)
    got = over.tokens_per_second(options.tokens, options.seconds)
    print(f"{options.load:g} times as much ({rate:.0f} requests/s): {got:.0f} tokens/s, {got / best:.1%} of the peak")
    print(f"accepted: {len(over.completed)}, latency {percentiles(over.completed)}")
    print(f"refused: {len(over.refused)}, told after {percentiles(over.refused)}")
    for problem in {*at_peak.wrong, *over.wrong}:
        print(f"WRONG: {problem}")
    return int(got < 0.95 * best or bool(at_peak.wrong or over.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--step-ms", type=float, default=10)
    parser.add_argument("--seqs", type=int, default=32)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--load", type=float, default=4)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options))
        return 0
    with subprocess.Popen([sys.executable, *sys.argv, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            return asyncio.run(measure(int(server.stdout.readline()), options))
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
