"""Steps in which every sequence brings one token, as CUDA graphs."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from trivet.runtime.cuda.device import Device, out_of_memory
from trivet.runtime.cuda.kernels.attention_tiles import SPLIT
from trivet.runtime.cuda.step import HostStep, StepBuffer, StepInputs, ints_of, table_width

logger = logging.getLogger(__name__)

DRIVER_BYTES = 8 << 20
"""What the driver takes for one graph, about."""


def batch_buckets(largest: int) -> list[int]:
    """Batch sizes that have graphs, up to the first that holds `largest`: 1, 2, 4, 8, then every eighth."""
    sizes = [1, 2, 4, *range(8, largest + 8, 8)]
    return sizes[: bisect_left(sizes, largest) + 1]


def context_buckets(largest: int) -> list[int]:
    """Bounds of contexts that have graphs: attention launches more programs the more splits a context may have, and up
    to SHARE of them one for a sequence, whose states then need not be combined."""
    return [context for context in (SPLIT, 4 * SPLIT) if context < largest] + [largest]


def graph_bytes(
    step_bytes: int, max_batch: int, max_context: int, block_size: int, vocab_size: int, hidden_bytes: int = 0
) -> int:
    """An upper bound of what graphs take, of which a step of the largest batch takes `step_bytes`. `hidden_bytes`: of a
    row of what steps of a graph that was cut begin with."""
    batches = batch_buckets(max_batch)
    graphs, largest = len(batches) * len(context_buckets(max_context)), batches[-1]
    tables = 2 * largest * table_width(max_context, block_size)  # as they are sent, and as they are read
    shared = 4 * (largest * vocab_size + tables + ints_of(EMPTY.padded(largest))) + largest * hidden_bytes
    return step_bytes + step_bytes // 8 + shared + graphs * DRIVER_BYTES


Run = Callable[[StepInputs], torch.Tensor | None]
"""Gives the logits of a step."""


class DecodeGraphs:
    """A graph for each bucket of batch and context, captured when first needed.

    A smaller batch is padded with rows that write nothing; no row's bits depend on the others, nor on the bucket. The
    largest is captured first: the others then fit in its memory. Where memory does not suffice for a graph, steps of
    its bucket run without.
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
        hidden: torch.Tensor | None = None,
    ) -> None:
        """`hidden` [1, width] is of the kind that steps of a graph that was cut begin with."""
        self._device = device
        self._run = run
        self._buffer = buffer
        self._batches, self._contexts = batch_buckets(max_batch), context_buckets(max_context)
        self._graphs: dict[tuple[int, int], tuple[Callable[[], None], StepInputs] | None] = {}
        # What all graphs read and write; they never run at the same time.
        largest, width = self._batches[-1], table_width(max_context, block_size)
        self._logits = torch.empty((largest, vocab_size), dtype=torch.float32, device=device.place)
        self._tables = torch.zeros((largest, width), dtype=torch.int32, device=device.place)
        self._hidden = None if hidden is None else hidden.new_zeros(largest, hidden.shape[1])
        self._values = torch.empty(
            ints_of(EMPTY.padded(largest)) + largest * width, dtype=torch.int32, device=device.place
        )

    def prepare(self) -> None:
        """Capture the largest graph. Raises errors of which some are `out_of_memory`."""
        largest = self._batches[-1], self._contexts[-1]
        self._graphs[largest] = self._capture(*largest)

    def run(self, step: HostStep, hidden: torch.Tensor | None = None) -> torch.Tensor | None:
        """Logits [R, V] of a step of single tokens, to be read before the next; None where there is no graph."""
        rows = len(step.token_ids)
        if step.max_query_len != 1 or not step.all_rows or rows > self._batches[-1]:
            return None
        batch = self._batches[bisect_left(self._batches, rows)]
        bucket = batch, self._contexts[bisect_left(self._contexts, step.max_context_len)]
        if bucket not in self._graphs:
            try:
                self._graphs[bucket] = self._capture(*bucket)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                logger.warning("no memory for the CUDA graph of %d sequences: their steps run without one", batch)
                self._graphs[bucket] = None
        graph = self._graphs[bucket]
        if graph is None:
            return None
        replay, inputs = graph
        tables = self._buffer.send(step.padded(batch), self._values).block_tables
        inputs.block_tables[:, : tables.shape[1]].copy_(tables)
        if self._hidden is not None and hidden is not None:
            self._hidden[:rows].copy_(hidden)
        replay()
        return self._logits[:rows]

    def _capture(self, batch: int, context: int) -> tuple[Callable[[], None], StepInputs]:
        # Tables come last among the values: however wide they are, the others are at the same places.
        inputs = self._buffer.send(EMPTY.padded(batch), self._values)
        # The logits go to memory of our own: that of the graph is the next one's.
        inputs = replace(
            inputs, block_tables=self._tables[:batch], max_context_len=context, logits=self._logits[:batch]
        )
        if self._hidden is not None:
            inputs.hidden = self._hidden[:batch]

        def run() -> None:
            self._run(inputs)

        return self._device.capture(run), inputs


def _empty_step() -> HostStep:
    none = np.empty(0, np.int32)
    return HostStep(none, none, none, none, none, none, np.empty((0, 0), np.int32), 1, 1, True)


EMPTY = _empty_step()
