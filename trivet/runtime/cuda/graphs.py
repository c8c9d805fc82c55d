"""Steps in which every sequence brings one token, as CUDA graphs."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trivet.runtime.cuda.device import Device
from trivet.runtime.cuda.step import TABLE_WIDTH, HostStep, StepBuffer, StepInputs, ints_of

logger = logging.getLogger(__name__)

SMALLEST_CONTEXT = 2048
"""Tokens. A graph runs as many programs as its longest context needs, so there are some for shorter ones, each for
four times as long as the one before."""


DRIVER_BYTES = 8 << 20
"""What the driver takes for one graph, about."""


def batch_buckets(largest: int) -> list[int]:
    """Batch sizes that have graphs, up to the first that holds `largest`: 1, 2, 4, 8, then every eighth."""
    sizes = [1, 2, 4, *range(8, largest + 8, 8)]
    return sizes[: bisect_left(sizes, largest) + 1]


def context_buckets(longest: int) -> list[int]:
    """Contexts that have graphs, in tokens; the last is `longest`."""
    sizes = []
    size = SMALLEST_CONTEXT
    while size < longest:
        sizes.append(size)
        size *= 4
    return [*sizes, longest]


def graph_bytes(step_bytes: int, max_batch: int, vocab_size: int) -> int:
    """An upper bound of what graphs take, of which the largest step takes `step_bytes`."""
    batches = batch_buckets(max_batch)
    return step_bytes + step_bytes // 8 + 4 * batches[-1] * vocab_size + len(batches) * DRIVER_BYTES


Run = Callable[[StepInputs], torch.Tensor | None]
"""Gives the logits of a step."""


@dataclass(slots=True)
class _Graph:
    replay: Callable[[], None]
    step: torch.Tensor


class DecodeGraphs:
    """A graph for each pair of batch and context bucket, captured when first needed.

    A smaller batch is padded with rows that write nothing; no row's bits depend on the others. The largest batch is
    captured first: the others then fit in its memory. Where memory does not suffice for a graph, steps of its bucket
    run without.
    """

    def __init__(
        self,
        device: Device,
        run: Run,
        buffer: StepBuffer,
        vocab_size: int,
        block_size: int,
        max_batch: int,
        max_context: int,
    ) -> None:
        self._device = device
        self._run = run
        self._buffer = buffer
        self._block_size = block_size
        self._batches = batch_buckets(max_batch)
        self._contexts = context_buckets(max_context)
        self._graphs: dict[tuple[int, int], _Graph | None] = {}
        self._logits = torch.empty((self._batches[-1], vocab_size), dtype=torch.float32, device=device.place)

    def prepare(self) -> None:
        """Capture the largest graph. Raises OutOfMemoryError."""
        size = self._batches[-1], self._contexts[-1]
        self._graphs[size] = self._capture(*size)

    def run(self, step: HostStep) -> torch.Tensor | None:
        """Logits [R, V] of a step of single tokens, to be read before the next; None where there is no graph."""
        rows = len(step.token_ids)
        batch, context = bisect_left(self._batches, rows), bisect_left(self._contexts, step.max_context_len)
        if not (step.all_rows and step.max_query_len == 1) or batch == len(self._batches):
            return None
        size = self._batches[batch], self._contexts[min(context, len(self._contexts) - 1)]
        if size not in self._graphs:
            try:
                self._graphs[size] = self._capture(*size)
            except torch.OutOfMemoryError:
                logger.warning("no memory for the CUDA graph of %d sequences: their steps run without one", size[0])
                self._graphs[size] = None
        graph = self._graphs[size]
        if graph is None:
            return None
        self._buffer.send(self._padded(step, *size), graph.step)
        graph.replay()
        return self._logits[:rows]

    def _padded(self, step: HostStep, batch: int, context: int) -> HostStep:
        width = -(-context // self._block_size)
        return step.padded(batch, context, -(-width // TABLE_WIDTH) * TABLE_WIDTH)

    def _capture(self, batch: int, context: int) -> _Graph:
        none = np.empty(0, np.int32)
        empty = HostStep(none, none, none, none, none, np.empty((0, 0), np.int32), none, none, 1, 1, True)
        padded = self._padded(empty, batch, context)
        values = torch.empty(ints_of(padded), dtype=torch.int32, device=self._device.place)
        inputs = self._buffer.send(padded, values)

        def run() -> None:
            logits = self._run(inputs)
            assert logits is not None, "every row has some"
            # To memory of our own: that of the graph is the next one's.
            self._logits[:batch].copy_(logits)

        return _Graph(self._device.capture(run), values)
