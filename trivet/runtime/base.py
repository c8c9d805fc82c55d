"""What the engine asks of a runtime. It cannot tell one from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from trivet.engine.plan import StepOutput, StepPlan


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    name: str
    """The model's own name, else that of its file."""
    architecture: str
    """"llama", "qwen3", …"""
    dtype: str
    """What most weights are stored in: "f32", "q8_0", "q4_k", …"""
    context_length: int
    """Tokens that the model was made for."""
    device: str
    """For people: "cpu (avx2, 2 threads)"."""
    weight_bytes: int
    vocab_size: int
    num_layers: int
    hidden_size: int = 0
    num_parameters: int = 0
    """Numbers in all tensors."""
    dedicated_memory: bool = False
    """`available_bytes` has nothing else to be left for: the cache takes all of it unless told otherwise."""
    partly_dedicated_memory: bool = False
    """A part of the cache is in such memory, the other in memory that is left for others too."""


class Runtime(Protocol):
    """Holds a model's weights and its paged KV cache, and executes step plans."""

    info: RuntimeInfo

    def block_bytes(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes in the cache, over all layers."""
        ...

    def available_bytes(self) -> int:
        """Memory that the cache may take on this device now."""
        ...

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        """Reserve the cache, once, before the first `run`. Raises EngineError when memory is short."""
        ...

    def run(self, plan: StepPlan) -> StepOutput:
        """Execute one step: write K and V of its tokens, compute the logits asked for, sample.

        Not re-entrant. A plan that failed may be run again, or in parts; not after a DeviceLostError.
        """
        ...

    def identity(self) -> Mapping[str, str]:
        """What fixes the bytes of a block, as far as the runtime does: weights, cache type, instruction set, …"""
        ...

    def read_block(self, block: int) -> np.ndarray:
        """A copy of a block of the cache, uint8 [bytes], after the steps that were started before."""
        ...

    def write_block(self, block: int, data: np.ndarray) -> None:
        """Fill a block with what `read_block` gave, in this runtime or one of the same identity, after the steps that
        were started before.
        """
        ...

    def close(self) -> None:
        """Free threads and memory; further calls are errors."""
        ...


class Pending(Protocol):
    """A step in flight."""

    def result(self) -> StepOutput:
        """Waits for it. Raises what it failed with."""
        ...


@runtime_checkable
class OverlappingRuntime(Runtime, Protocol):
    """A runtime whose device works while the host plans the next step."""

    def start(self, plan: StepPlan) -> Pending:
        """Begin a step, whose `plan.token_ids` may hold placeholders for what the step started before it draws.

        Steps run in the order of the calls, and at most two are in flight. One that follows a step that failed brings
        nothing of use: the engine waits for it, and then runs both again, in parts.
        """
        ...
