"""Kill the engine of a running server again and again, and see whether anybody notices.

    python bench/kills.py [--kills 20] [--streams 32] [--tokens 400] [--seed 0] [--model FILE]

Starts `trivet serve` (the built-in model unless given), asks for every stream once without kills, then again while
the engine's process is killed with SIGKILL at random moments, while it loads and recomputes too, until all kills are
done; requests that end are followed by new ones. Fails when a request fails or its text is not what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time

import httpx
import psutil


def body(number: int, tokens: int) -> dict[str, object]:
    prompt = f"Scene {number}. Enter a lord with {number + 2} attendants.\n"
    return {"prompt": prompt, "max_tokens": tokens, "seed": number, "temperature": 0.9, "stream": True}


async def text_of(client: httpx.AsyncClient, asked: dict[str, object]) -> str:
    """The text of a stream. Raises when it ends in anything but its end."""
    pieces: list[str] = []
    async with client.stream("POST", "/v1/completions", json=asked) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return "".join(pieces)
            if line.startswith("data: "):
                pieces.append(json.loads(line[6:])["choices"][0]["text"])
    raise RuntimeError("the stream ended early")


async def kill_at_random(server: psutil.Process, kills: int, chance: random.Random) -> None:
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0, 4))
        while not (engines := server.children()):
            await asyncio.sleep(0.001)
        print(f"kill {number + 1} of {kills}", flush=True)
        for engine in engines:
            engine.kill()


async def run(url: str, server: psutil.Process, options: argparse.Namespace) -> int:
    bodies = [body(number, options.tokens) for number in range(options.streams)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began = time.monotonic()
        expected = await asyncio.gather(*(text_of(client, asked) for asked in bodies))
        print(f"{options.streams} streams without kills: {time.monotonic() - began:.1f} s", flush=True)
        killer = asyncio.create_task(kill_at_random(server, options.kills, random.Random(options.seed)))
        done, failed, different = 0, 0, 0

        async def repeat(index: int) -> None:
            nonlocal done, failed, different
            while not killer.done():
                try:
                    text = await text_of(client, bodies[index])
                except Exception as error:
                    failed += 1
                    print(f"stream {index} failed: {error!r}", flush=True)
                else:
                    different += text != expected[index]
                done += 1

        began = time.monotonic()
        await asyncio.gather(*(repeat(index) for index in range(options.streams)))
        await killer
    seconds = time.monotonic() - began
    print(f"{options.kills} kills in {seconds:.0f} s, {done} requests: {failed} failed, {different} of another text")
    return int(failed + different > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    options = parser.parse_args()
    command = [sys.executable, "-m", "trivet", "serve", *([options.model] if options.model else []), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline() + server.stdout.readline())
            assert found, "the server did not start"
            return asyncio.run(run(found[0], psutil.Process(server.pid), options))
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
