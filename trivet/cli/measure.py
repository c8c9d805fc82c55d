"""What `trivet bench` measures: rounds of random prompts through an engine of this process."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trivet.api.args import EngineArgs
from trivet.engine.client import EngineClient
from trivet.engine.inprocess import InProcessClient
from trivet.engine.request import EngineRequest
from trivet.engine.streams import TokenStream
from trivet.errors import EngineError
from trivet.sampling.params import SamplingParams

WARM_UP_PROMPT, WARM_UP_TOKENS = 64, 4

Tick = Callable[[str, int], None]
"""Told what is being done, and how many tokens were."""


async def measure(
    args: EngineArgs, prompt_tokens: int, gen_tokens: int, batches: list[int], tick: Tick
) -> list[dict[str, Any]]:
    """One result for each batch size; what they hold is in the help of `trivet bench`.

    Raises EngineError when the model's context or the memory is too small.
    """
    length, most = prompt_tokens + gen_tokens, max(batches)
    # One block more for each sequence: the scheduler keeps one in reserve for all that run.
    blocks = most * (-(-length // args.block_size) + 1)
    args = dataclasses.replace(args, max_model_len=length, max_num_seqs=most, num_gpu_blocks_override=blocks)
    client = InProcessClient(args.engine_config())
    rng = np.random.default_rng(0)

    def prompts(count: int, length: int) -> list[list[int]]:
        return rng.integers(client.info.vocab_size, size=(count, length)).tolist()

    try:
        start = time.monotonic()
        try:
            await client.start()
        except EngineError as error:
            wanted = f"{most} sequences of {prompt_tokens} + {gen_tokens} tokens"
            raise EngineError(f"{wanted}: {error}") from None
        load_s = round(time.monotonic() - start, 3)
        tick("warming up", 0)
        warm_up = prompts(1, min(prompt_tokens, WARM_UP_PROMPT))
        await generate(client, warm_up, min(gen_tokens, WARM_UP_TOKENS), lambda: None)
        results = []
        for batch in batches:
            speeds = await measure_batch(client, prompts(batch, prompt_tokens), gen_tokens, tick)
            shape = {"prompt_tokens": prompt_tokens, "gen_tokens": gen_tokens, "batch": batch}
            results.append({**shape, **speeds, "load_s": load_s, "rss_mb": peak_memory()})
        return results
    finally:
        await client.close()


async def measure_batch(
    client: EngineClient, prompts: list[list[int]], gen_tokens: int, tick: Tick
) -> dict[str, float | None]:
    """Prefill all prompts, then, from their cached keys and values, decode them together."""
    batch, prompt_tokens = len(prompts), len(prompts[0])
    start = time.monotonic()
    first = await generate(client, prompts, 1, lambda: tick(f"batch {batch}: prefill", prompt_tokens))
    waits = [times[0] - start for times in first]
    decoded = await generate(client, prompts, gen_tokens, lambda: tick(f"batch {batch}: decode", 1))
    begin, end = max(times[0] for times in decoded), min(times[-1] for times in decoded)
    tokens = sum(begin < time <= end for time in itertools.chain(*decoded))
    return {
        "prefill_tok_s": round(batch * prompt_tokens / max(waits), 2),
        "decode_tok_s": round(tokens / (end - begin), 2) if tokens else None,
        "ttft_ms": round(sum(waits) / batch * 1e3, 3),
        "itl_ms": round((end - begin) * batch / tokens * 1e3, 3) if tokens else None,
    }


async def generate(
    client: EngineClient, prompts: list[list[int]], tokens: int, each: Callable[[], None]
) -> list[list[float]]:
    """The time of every token of every prompt's continuation; `each` is called for every token."""
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=tokens)

    async def times(stream: TokenStream) -> list[float]:
        found = []
        async for chunk in stream:
            if chunk.error is not None:
                raise EngineError(chunk.error)
            for _ in chunk.tokens:
                found.append(chunk.emitted_at)
                each()
        return found

    requests = [
        EngineRequest(request_id=str(i), prompt=prompt, params=params, seed=0) for i, prompt in enumerate(prompts)
    ]
    return await asyncio.gather(*[times(client.submit(request)) for request in requests])


def peak_memory() -> float:
    """Of this process, in 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
