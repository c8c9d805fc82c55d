"""What each sequence brings to a step, and the plan that is made of that."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np

from trivet.engine.plan import SampleRow, StepPlan
from trivet.engine.sequence import Sequence
from trivet.engine.tables import BlockTables


class Part(msgspec.Struct, gc=False):
    """The next `tokens` of a sequence."""

    sequence: Sequence
    tokens: int
    stop: int = 0
    """Tokens of the sequence in the cache after the step; like what follows, set by `plan_step`."""
    rows: int = 0
    """That the runtime answers."""
    draws: bool = False
    """Whether the last of these is the sequence's next token."""

    @property
    def delays(self) -> bool:
        """Whether no step can be planned before it is known what this one brings."""
        return (self.draws and self.sequence.chain.needs_history) or self.sequence.prompt_logprobs is not None


def plan_step(parts: list[Part], tables: BlockTables, block_size: int) -> StepPlan:
    """The plan of a step, after which its sequences are as far as if it had run.

    The tokens that it is to draw are theirs already, though as the placeholders of `StepPlan.token_ids`.
    """
    counts = [part.tokens for part in parts]
    starts = [0, *itertools.accumulate(counts)]
    token_ids = np.empty(starts[-1], np.int32)
    stops: list[int] = []
    logit_rows: list[int] = []
    samples: list[SampleRow] = []
    for part, start in zip(parts, starts, strict=False):
        sequence, tokens = part.sequence, part.tokens
        computed, end = sequence.computed, sequence.num_tokens
        sequence.computed = part.stop = stop = computed + tokens
        stops.append(stop)
        if tokens == 1 and stop == end:
            token_ids[start] = sequence.last
        else:
            token_ids[start : start + tokens] = sequence.tokens[computed:stop]
        if sequence.prompt_logprobs is not None:
            for length in range(len(sequence.prompt_logprobs), min(stop + 1, sequence.prompt_len)):
                logit_rows.append(start + length - 1 - computed)
                samples.append(sequence.target_row(length))
                part.rows += 1
        if stop == end:
            sequence.num_tokens = end + 1
            sequence.last = -1 - len(samples)
            logit_rows.append(start + tokens - 1)
            samples.append(sequence.sample_row(stop))
            part.rows += 1
            part.draws = True
    query_starts, context_lens = np.array(starts, np.int32), np.array(stops, np.int32)
    positions = np.arange(starts[-1], dtype=np.int32)
    positions += (context_lens - query_starts[1:]).repeat(counts)
    return StepPlan(
        token_ids=token_ids,
        positions=positions,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=tables.gather([part.sequence.row for part in parts], -(-max(stops) // block_size)),
        logit_rows=np.array(logit_rows, np.int32),
        samples=samples,
    )
