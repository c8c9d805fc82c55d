"""The CPU runtime: a compiled native program and a paged cache beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np

from trivet import __version__, _native
from trivet.engine.plan import StepOutput, StepPlan
from trivet.errors import EngineError
from trivet.graph.ops import Graph
from trivet.models.config import ModelConfig
from trivet.runtime.base import RuntimeInfo
from trivet.runtime.compiler import Progress, compile_program
from trivet.runtime.machine import available_bytes, usable_cores
from trivet.sampling.sampler import sample
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint

CACHE_DTYPES = ("auto", "f32", "f16", "bf16", "q8_0")


class CpuRuntime:
    """A Runtime. `cache_dtype` "auto" keeps keys and values as float32 for a float32 model, else as bfloat16.

    Raises ModelError when graph and checkpoint do not fit together, EngineError for a wrong setting.
    """

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        config: ModelConfig,
        threads: int = 0,
        cache_dtype: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        """`threads` 0 takes one for each usable core."""
        if cache_dtype not in CACHE_DTYPES:
            raise EngineError(f"kv_cache_dtype must be one of {', '.join(CACHE_DTYPES)}, got {cache_dtype}")
        if not 0 <= threads <= 1024:
            raise EngineError(f"threads must be 0 (one per core) to 1024, got {threads}")
        threads = threads or usable_cores()
        dtype = main_format(checkpoint)
        if cache_dtype == "auto":
            cache_dtype = "f32" if dtype is Format.F32 else "bf16"
        self._checkpoint = checkpoint
        self._cache_dtype = cache_dtype
        self.program = compile_program(graph, checkpoint, threads, cache_dtype, progress)
        self.info = RuntimeInfo(
            name=str(checkpoint.metadata.get("general.name") or Path(checkpoint.path).stem),
            architecture=config.architecture,
            dtype=dtype.name.lower(),
            context_length=config.context_length,
            device=f"cpu ({_native.system_info()['isa']}, {threads} thread{'s' if threads > 1 else ''})",
            weight_bytes=self.program.weight_bytes,
            vocab_size=config.vocab_size,
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        )

    def block_bytes(self, block_size: int) -> int:
        try:
            return self.program.cache_block_bytes(block_size)
        except ValueError as error:
            raise EngineError(str(error)) from None

    def available_bytes(self) -> int:
        return available_bytes()

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        self._block_bytes = self.block_bytes(block_size)
        try:
            self.program.allocate_cache(num_blocks, block_size)
        except MemoryError:
            size = num_blocks * self.block_bytes(block_size)
            raise EngineError(
                f"{num_blocks} blocks of {block_size} tokens take {size} bytes of KV cache, "
                f"and the system has {available_bytes()}; use fewer blocks"
            ) from None
        except ValueError as error:
            raise EngineError(str(error)) from None

    def run(self, plan: StepPlan, hidden: np.ndarray | None = None) -> StepOutput:
        """`hidden` [tokens, width] float32 is what a graph that was cut begins with."""
        return sample(self.forward(plan, hidden), plan.samples)

    def forward(self, plan: StepPlan, hidden: np.ndarray | None = None) -> np.ndarray:
        """Logits [rows asked for, vocabulary] float32, or of a graph that was cut the hidden states [tokens, width]
        that it ends in; the next step overwrites them.
        """
        return self.program.run(
            plan.token_ids,
            plan.positions,
            plan.query_starts,
            plan.context_lens,
            plan.block_tables,
            plan.logit_rows,
            hidden,
        )

    def identity(self) -> Mapping[str, str]:
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, str]:
        return {
            "weights": sampled_digest(self._checkpoint),
            "cache type": self._cache_dtype,
            "instruction set": str(_native.system_info()["isa"]),
            "program version": __version__,
        }

    def read_block(self, block: int) -> np.ndarray:
        data = np.empty(self._block_bytes, np.uint8)
        self.program.read_block(block, data)
        return data

    def write_block(self, block: int, data: np.ndarray) -> None:
        self.program.write_block(block, np.ascontiguousarray(data))

    def close(self) -> None:
        del self.program


SAMPLE = 4096
"""Bytes."""


def sampled_digest(checkpoint: Checkpoint) -> str:
    """Tells models apart by their tensors' names, shapes, formats, and the bytes that each begins and ends with."""
    digest = blake2b(digest_size=16)
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.load(name)
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        rows = max(1, SAMPLE // max(1, data.shape[1]))
        digest.update(f"{name} {tensor.info.shape} {tensor.info.format.name}\n".encode())
        digest.update(data[:rows, :SAMPLE].tobytes())
        digest.update(data[-rows:, -SAMPLE:].tobytes())
    return digest.hexdigest()


def main_format(checkpoint: Checkpoint) -> Format:
    """The format that most of a model's bytes are in."""
    counts: Counter[Format] = Counter()
    for info in checkpoint.tensors.values():
        counts[info.format] += info.num_bytes
    return counts.most_common(1)[0][0] if counts else Format.F32
