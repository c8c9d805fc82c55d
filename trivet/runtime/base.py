"""What the engine asks of a runtime. It cannot tell one from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trivet.engine.plan import StepOutput, StepPlan


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    device: str
    """For people: "cpu (avx2, 2 threads)"."""
    weight_bytes: int
    vocab_size: int
    num_layers: int


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
        """Reserve the cache. Called once, before the first `run`. Raises EngineError when memory does not suffice."""
        ...

    def run(self, plan: StepPlan) -> StepOutput:
        """Execute one step: write K and V of its tokens, compute the logits asked for, sample. Not re-entrant."""
        ...

    def close(self) -> None:
        """Free threads and memory; further calls are errors."""
        ...
