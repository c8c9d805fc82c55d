"""The GPU runtime on torch's CPU: whole models, and the small graphs of tests/native/harness.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.native.harness import RandomCheckpoint
from trivet.engine.config import EngineConfig
from trivet.engine.plan import SampleRow, StepPlan
from trivet.graph.ops import Graph
from trivet.graph.passes import optimize
from trivet.models.config import ModelConfig
from trivet.models.registry import build
from trivet.runtime.cuda.device import Device, HostDevice
from trivet.runtime.cuda.runtime import CudaRuntime
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams
from trivet.weights import open_checkpoint
from trivet.weights.tensor import Checkpoint

SMALL: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 128}
"""Steps that are quickly run where the runtime tries the largest."""

GREEDY = Chain(SamplingParams(temperature=0))


def graph_runtime(
    model: tuple[Graph, RandomCheckpoint], device: Device | None = None, progress: Any = None, **settings: Any
) -> CudaRuntime:
    graph, checkpoint = model
    described = SimpleNamespace(
        architecture="random", context_length=65536, vocab_size=graph.widths[-1], num_layers=2, hidden_size=256
    )
    config = EngineConfig(model="random", **SMALL | settings)
    return CudaRuntime(optimize(graph), checkpoint, described, config, progress, device or HostDevice())  # type: ignore[arg-type]


def load(config: EngineConfig, progress: Any = None) -> CudaRuntime:
    """As `load_runtime` would on a machine with a GPU."""
    checkpoint: Checkpoint = open_checkpoint(config.model)
    model = ModelConfig.from_checkpoint(checkpoint, config.max_model_len)
    graph = optimize(build(model, checkpoint))
    return CudaRuntime(graph, checkpoint, model, config, progress, HostDevice())


def load_small(path: Path, **settings: Any) -> CudaRuntime:
    return load(EngineConfig(model=str(path), **SMALL | settings))


class Logits:
    """A runtime with the methods of a native program that `Sequences` of tests/native/harness.py calls."""

    def __init__(self, runtime: CudaRuntime) -> None:
        self.runtime = runtime
        self.allocate_cache = runtime.allocate_cache

    def run(self, **arrays: np.ndarray) -> np.ndarray:
        logits = self.runtime.logits(StepPlan(**arrays, samples=[]))
        assert logits is not None
        return logits.numpy().copy()


def sample_row(position: int, history: list[int] | None = None, chain: Chain = GREEDY, seed: int = 0) -> SampleRow:
    tokens = np.array(history or [0] * position, np.int32)
    return SampleRow(chain, seed, position, 0, tokens)


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the range of its row."""
    return float((np.abs(ours - theirs).max(1) / np.ptp(theirs, axis=1)).max())
