"""Trivet's engine: scheduler, prefix cache and greedy sampling are in the times; only the process border is not."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from protocol import clock, serve

sys.path.append(str(Path(__file__).parents[3]))

from trivet import __version__
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.request import EngineRequest
from trivet.sampling.params import SamplingParams

BLOCK = 16


def most_tokens(case: dict[str, Any]) -> int:
    """That a sequence may make: some, while the others begin."""
    return case["tokens"] + 2 * case["streams"] if case["tokens"] else 1


class Trivet:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.clock = clock(settings)
        cases = settings["cases"]
        longest = max(case["context"] + most_tokens(case) for case in cases)
        # A block more for each sequence, as the scheduler keeps one in reserve.
        blocks = max(case["streams"] * (-(-(case["context"] + most_tokens(case)) // BLOCK) + 1) for case in cases)
        self.engine = Engine(
            EngineConfig(
                model=settings["model"],
                device="cpu",
                threads=settings["threads"],
                max_model_len=longest,
                max_num_seqs=max(case["streams"] for case in cases),
                num_blocks=blocks,
                block_size=BLOCK,
                numerics=settings.get("numerics", "exact"),
            )
        )
        self.draw = np.random.default_rng(0)
        self.names = itertools.count()
        self.case: dict[str, Any] = {}
        self.prompts: list[list[int]] = []
        self.about = {"version": f"trivet {__version__}", "system": self.engine.info.device}

    def run(self, case: dict[str, Any]) -> float:
        if not case["tokens"]:
            return self._read(self._draw(1, case["context"]))
        if case != self.case:
            # Their keys and values stay in the prefix cache.
            self.case, self.prompts = case, self._draw(case["streams"], case["context"])
            self._read(self.prompts)
        waiting = self._add(self.prompts, most_tokens(case))
        running = list(waiting)
        while waiting:
            waiting -= {chunk.request_id for chunk in self.engine.step() if chunk.tokens}
        start = self.clock()
        made = sum(len(chunk.tokens) for _ in range(case["tokens"]) for chunk in self.engine.step())
        seconds = self.clock() - start
        if made != case["streams"] * case["tokens"]:
            raise SystemExit(f"{made} tokens in {case['tokens']} steps of {case['streams']} sequences")
        for name in running:
            self.engine.cancel(name)
        return seconds

    def _read(self, prompts: list[list[int]]) -> float:
        start = self.clock()
        self._add(prompts, 1)
        while self.engine.busy:
            self.engine.step()
        return self.clock() - start

    def _draw(self, count: int, length: int) -> list[list[int]]:
        prompts: list[list[int]] = self.draw.integers(self.engine.info.vocab_size, size=(count, length)).tolist()
        return prompts

    def _add(self, prompts: list[list[int]], tokens: int) -> set[str]:
        params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=tokens)
        names = set()
        for prompt in prompts:
            name = str(next(self.names))
            self.engine.add(EngineRequest(request_id=name, prompt=prompt, params=params, seed=0))
            names.add(name)
        return names


if __name__ == "__main__":
    serve(Trivet)
