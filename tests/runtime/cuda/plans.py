"""Step plans written by hand, and the two runtimes to run them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trivet.engine.config import EngineConfig
from trivet.engine.plan import SampleRow, StepPlan
from trivet.graph.passes import optimize
from trivet.models.config import ModelConfig
from trivet.models.registry import build
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.cuda.device import HostDevice
from trivet.runtime.cuda.runtime import CudaRuntime
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams
from trivet.weights import open_checkpoint

BLOCK_SIZE = 16
GREEDY = Chain(SamplingParams(temperature=0))


def load(model: Path, blocks: int = 16, **settings: object) -> CudaRuntime:
    """With small steps, as the largest is run at start."""
    given = {"max_num_seqs": 8, "max_num_batched_tokens": 48, "max_model_len": 128} | settings
    config = EngineConfig(model=str(model), **given)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(config.model)
    described = ModelConfig.from_checkpoint(checkpoint, config.max_model_len)
    graph = optimize(build(described, checkpoint))
    runtime = CudaRuntime(graph, checkpoint, described, config, device=HostDevice())
    runtime.allocate_cache(blocks, BLOCK_SIZE)
    return runtime


def load_cpu(model: Path, blocks: int = 16, cache: str = "auto") -> CpuRuntime:
    checkpoint = open_checkpoint(model)
    described = ModelConfig.from_checkpoint(checkpoint, 128)
    runtime = CpuRuntime(optimize(build(described, checkpoint)), checkpoint, described, cache_dtype=cache)
    runtime.allocate_cache(blocks, BLOCK_SIZE)
    return runtime


@dataclass
class Part:
    """What one sequence brings: tokens from `start` on, in `blocks`; all of their logits, or the last's."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    all_rows: bool = False
    chain: Chain = field(default_factory=lambda: GREEDY)


def plan(*parts: Part) -> StepPlan:
    starts = np.cumsum([0, *(len(part.tokens) for part in parts)]).astype(np.int32)
    width = max(len(part.blocks) for part in parts)
    rows, samples = [], []
    for part, start in zip(parts, starts, strict=False):
        wanted = range(len(part.tokens)) if part.all_rows else [len(part.tokens) - 1]
        rows += [start + row for row in wanted]
        history = np.array(part.tokens, np.int32)
        samples += [SampleRow(part.chain, 7, part.start + row + 1, 0, history) for row in wanted]
    return StepPlan(
        token_ids=np.concatenate([np.array(part.tokens, np.int32) for part in parts]),
        positions=np.concatenate(
            [np.arange(part.start, part.start + len(part.tokens), dtype=np.int32) for part in parts]
        ),
        query_starts=starts,
        context_lens=np.array([part.start + len(part.tokens) for part in parts], np.int32),
        block_tables=np.array([[*part.blocks, *[-1] * (width - len(part.blocks))] for part in parts], np.int32),
        logit_rows=np.array(rows, np.int32),
        samples=samples,
    )


def logits(runtime: CudaRuntime | CpuRuntime, step: StepPlan) -> np.ndarray:
    """[R, V] of a step, without sampling."""
    if isinstance(runtime, CpuRuntime):
        return runtime.program.run(
            step.token_ids,
            step.positions,
            step.query_starts,
            step.context_lens,
            step.block_tables,
            step.logit_rows,
        ).copy()
    return runtime.logits(step).numpy().copy()
