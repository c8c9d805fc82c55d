"""A model whose first layers are on one device and whose last are on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from trivet.engine.plan import StepOutput, StepPlan
from trivet.graph.ops import Graph
from trivet.graph.passes import cut, optimize
from trivet.runtime.base import Runtime

_ANY_SIZE = 16
"""A block size that every runtime takes; the bytes of a block grow with its size, in all layers alike."""


class FirstLayers(Runtime, Protocol):
    """A runtime of a graph that ends in an `output`."""

    def forward(self, plan: StepPlan) -> np.ndarray:
        """Execute one step: the hidden states [tokens, width] float32, which the next step overwrites."""
        ...


class LastLayers(Runtime, Protocol):
    """A runtime of a graph that begins with an `input`."""

    def run(self, plan: StepPlan, hidden: np.ndarray | None = None) -> StepOutput:
        """Execute one step on the hidden states that `FirstLayers.forward` gave for it; None for a whole graph."""
        ...


class HybridRuntime:
    """A Runtime of two: a step crosses once, and a block of the cache has a part of the same id in both.

    Tokens are drawn where the last layers are.
    """

    def __init__(self, first: FirstLayers, last: LastLayers, last_layers: int) -> None:
        """`last_layers`: how many of the layers are on the second."""
        self.first, self.last, self.last_layers = first, last, last_layers
        first_layers = first.info.num_layers - last_layers
        self.info = replace(
            first.info,
            device=f"{first_layers} layers on {first.info.device}, {last_layers} on {last.info.device}",
            weight_bytes=first.info.weight_bytes + last.info.weight_bytes,
            partly_dedicated_memory=last.info.dedicated_memory,
        )

    def block_bytes(self, block_size: int) -> int:
        return self.first.block_bytes(block_size) + self.last.block_bytes(block_size)

    def available_bytes(self) -> int:
        """As many as whole blocks need, of which both devices have their parts."""
        parts = [(runtime.available_bytes(), runtime.block_bytes(_ANY_SIZE)) for runtime in (self.first, self.last)]
        return min(available // of_block for available, of_block in parts) * sum(of_block for _, of_block in parts)

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        self._first_bytes = self.first.block_bytes(block_size)
        self.first.allocate_cache(num_blocks, block_size)
        self.last.allocate_cache(num_blocks, block_size)

    def run(self, plan: StepPlan) -> StepOutput:
        return self.last.run(plan, self.first.forward(plan))

    def identity(self) -> Mapping[str, str]:
        parts = (("first layers", self.first), (f"last {self.last_layers} layers", self.last))
        return {f"{name} of the {part}": text for part, of in parts for name, text in of.identity().items()}

    def read_block(self, block: int) -> np.ndarray:
        return np.concatenate([self.first.read_block(block), self.last.read_block(block)])

    def write_block(self, block: int, data: np.ndarray) -> None:
        self.first.write_block(block, data[: self._first_bytes])
        self.last.write_block(block, data[self._first_bytes :])

    def close(self) -> None:
        self.first.close()
        self.last.close()


def place(
    graph: Graph, last_layers: int, first: Callable[[Graph], FirstLayers], last: Callable[[Graph], LastLayers]
) -> Runtime:
    """A runtime with so many of a model's last layers on the second device, the others on the first.

    `first` and `last` make a runtime of a device from an optimised graph. One of them has the whole model where
    `last_layers` is 0, or as many as there are, or more.
    """
    layers = len(graph.cache)
    if last_layers <= 0:
        return first(optimize(graph))
    if last_layers >= layers:
        return last(optimize(graph))
    before, after = cut(graph, layers - last_layers)
    return HybridRuntime(first(optimize(before)), last(optimize(after)), last_layers)
