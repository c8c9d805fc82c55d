"""How much of the prompts of a trace the prefix cache finds, against the most that could be found.

    python bench/prefix_replay.py TRACE.jsonl [--requests 300] [--scale 16] [--blocks 20000]

The trace is Mooncake's: each line has `input_length`, `output_length` and `hash_ids`, one for each 512 tokens of the
prompt; equal ids at the start of two prompts are equal tokens. Lengths are divided by --scale, so that each id becomes
512 / scale tokens. Conversations come --together at a time. The ideal is that every block that was ever in a prompt
before is found; the last token of a prompt always has to be computed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from trivet.engine.config import EngineConfig
from trivet.engine.plan import StepOutput
from trivet.engine.request import EngineRequest
from trivet.engine.scheduler import Scheduler
from trivet.sampling.params import SamplingParams

HASHED_TOKENS = 512
"""Tokens that one of a trace's hash ids stands for."""


def read_trace(path: Path, requests: int, scale: int) -> list[EngineRequest]:
    """The first `requests` lines of a trace, made shorter; tokens are numbers that no two ids share."""
    size = HASHED_TOKENS // scale
    found = []
    for index, line in enumerate(itertools.islice(path.open(), requests)):
        entry = json.loads(line)
        prompt = [hash_id * size + place for hash_id in entry["hash_ids"] for place in range(size)]
        params = SamplingParams(temperature=0, max_tokens=max(1, entry["output_length"] // scale), ignore_eos=True)
        length = max(1, entry["input_length"] // scale)
        found.append(EngineRequest(request_id=str(index), prompt=prompt[:length], params=params, seed=0))
    return found


def ideal_hits(requests: list[EngineRequest], block_size: int) -> int:
    """Prompt tokens in whole blocks that an earlier prompt had too, after the same tokens."""
    known: set[int] = set()
    hits = 0
    for request in requests:
        key = 0
        found = True
        for end in range(block_size, len(request.prompt) + 1, block_size):
            key = hash((key, tuple(request.prompt[end - block_size : end])))
            found = found and key in known and end < len(request.prompt)
            hits += block_size * found
            known.add(key)
    return hits


def replay(requests: list[EngineRequest], config: EngineConfig, num_blocks: int, together: int) -> Scheduler:
    """Serve the requests, in order, with a runtime that answers at once; `together` of them are there at a time."""
    scheduler = Scheduler(config, num_blocks)
    coming = iter(requests)
    unfinished = 0
    while True:
        for request in itertools.islice(coming, together - unfinished):
            scheduler.add(request)
            unfinished += 1
        plan = scheduler.schedule()
        if plan is None:
            return scheduler
        rows = len(plan.samples)
        chunks = scheduler.commit(StepOutput(np.full(rows, -1, np.int32), [None] * rows, [None] * rows))
        unfinished -= sum(chunk.finish_reason is not None for chunk in chunks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--scale", type=int, default=16)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--blocks", default="500,1000,2000,5000,10000,20000", help="sizes of the cache")
    parser.add_argument("--together", type=int, default=8)
    args = parser.parse_args()

    requests = read_trace(args.trace, args.requests, args.scale)
    longest = max(len(request.prompt) + (request.params.max_tokens or 0) for request in requests)
    config = EngineConfig(model="", max_model_len=longest, block_size=args.block_size)
    prompts, ideal = sum(len(request.prompt) for request in requests), ideal_hits(requests, args.block_size)
    print(f"{len(requests)} prompts of {prompts} tokens; ideally {ideal} ({ideal / prompts:.1%}) are found")
    print(f"{'blocks':>8}{'tokens':>10}{'found':>10}{'ratio':>8}{'of ideal':>10}{'preempted':>11}")
    for blocks in map(int, args.blocks.split(",")):
        stats = replay(requests, config, blocks, args.together).stats()
        found = stats.cached_tokens
        row = f"{blocks:8}{blocks * args.block_size:10}{found:10}{found / prompts:8.1%}{found / ideal:10.1%}"
        print(f"{row}{stats.preemptions:11}", flush=True)


if __name__ == "__main__":
    main()
