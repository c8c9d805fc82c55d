"""The CPU runtime: a compiled native program and a paged cache beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from trivet import __version__, _native
from trivet.engine.config import join_cache_dtype, split_cache_dtype
from trivet.engine.plan import StepOutput, StepPlan
from trivet.errors import EngineError
from trivet.graph.ops import Graph
from trivet.models.config import ModelConfig
from trivet.runtime.compiler import compile_program
from trivet.runtime.machine import available_bytes, usable_cores
from trivet.runtime.model import describe, graph_digest, own_type, sampled_digest
from trivet.runtime.weights import Progress
from trivet.sampling.sampler import sample
from trivet.weights.tensor import Checkpoint

logger = logging.getLogger(__name__)

CACHE_DTYPES = ("auto", "f32", "f16", "bf16", "q8_0")


class CpuRuntime:
    """A Runtime. `cache_dtype` is one type for keys and values, or KEYS/VALUES; "auto" is the model's own.

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
        numerics: str = "exact",
        mlock: bool = False,
    ) -> None:
        """`threads` 0: one for each usable core. `numerics` "fast" differs from "exact" on AVX-512 and AMX.
        `mlock`: the caller will lock what is in memory, and means all weights.
        """
        types = split_cache_dtype(cache_dtype)
        if not set(types) <= set(CACHE_DTYPES):
            names = ", ".join(CACHE_DTYPES)
            raise EngineError(
                f"kv_cache_dtype must be one of {names}, or two of them as KEYS/VALUES, got {cache_dtype}"
            )
        if not 0 <= threads <= 1024:
            raise EngineError(f"threads must be 0 (one per core) to 1024, got {threads}")
        if numerics not in ("exact", "fast"):
            raise EngineError(f"numerics must be exact or fast, got {numerics}")
        threads = threads or usable_cores()
        keys, values = (own_type(checkpoint) if name == "auto" else name for name in types)
        self._checkpoint = checkpoint
        self._graph_digest = graph_digest(graph)
        self._cache_dtype = join_cache_dtype(keys, values)
        system = _native.system_info()
        self.program = compile_program(graph, checkpoint, threads, self._cache_dtype, progress, numerics, mlock)
        if system["failed_trial"]:
            logger.warning(
                "the kernels for %s did not pass their trial on this processor; those for %s are used",
                " and ".join(system["failed_trial"]),
                system["isa"],
            )
        isa = str(system["isa"])
        self._instructions = f"{isa}, fast numerics" if numerics == "fast" else isa
        device = f"cpu ({isa}, {threads} thread{'s' if threads > 1 else ''})"
        self.info = describe(checkpoint, config, device, self.program.weight_bytes)

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
        return sample(self.forward(plan, hidden), plan.samples, self.program)

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
            "graph": self._graph_digest,
            "cache type": self._cache_dtype,
            "instruction set": self._instructions,
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
