"""Drives the CPU runtime through one sequence, a plan at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trivet.engine.config import EngineConfig
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.loader import load_runtime

BLOCK_SIZE = 16
BLOCKS = np.array([[5, 2, 7, 0, 3]], np.int32)
"""Of a cache of 8, in no order: 80 tokens."""


class Stepper:
    def __init__(self, model: Path, cache: str = "auto") -> None:
        runtime = load_runtime(EngineConfig(model=str(model), kv_cache_dtype=cache))
        assert isinstance(runtime, CpuRuntime)
        runtime.allocate_cache(8, BLOCK_SIZE)
        self.runtime, self.length = runtime, 0

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits [len(tokens), vocabulary] after each of the sequence's next tokens."""
        start, count = self.length, len(tokens)
        self.length += count
        logits = self.runtime.program.run(
            np.array(tokens, np.int32),
            np.arange(start, start + count, dtype=np.int32),
            np.array([0, count], np.int32),
            np.array([start + count], np.int32),
            BLOCKS,
            np.arange(count, dtype=np.int32),
        )
        return logits.copy()

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        tokens = [int(self.step(prompt)[-1].argmax())]
        while len(tokens) < count:
            tokens.append(int(self.step(tokens[-1:])[0].argmax()))
        return tokens
