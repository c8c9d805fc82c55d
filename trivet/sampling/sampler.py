"""Runs the native sampler over the rows of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trivet import _native
from trivet.engine.plan import SampleRow, StepOutput
from trivet.engine.request import TokenLogprob


def sample(logits: np.ndarray, rows: Sequence[SampleRow], program: _native.Program | None = None) -> StepOutput:
    """Draw (or score, where a row has a target) one token for each row of `logits` [R, V] float32.

    A row's result depends on that row alone: its logits, chain, seed, position, history and state. The threads
    of a `program` that does not run meanwhile share the rows.
    """
    samples = _native.sample(logits, rows, program)
    return StepOutput(
        tokens=np.array([token for token, _, _, _ in samples], dtype=np.int32),
        logprobs=[TokenLogprob(*logprobs) if logprobs else None for _, logprobs, _, _ in samples],
        errors=[error for _, _, error, _ in samples],
        states={row: state for row, (_, _, _, state) in enumerate(samples) if state is not None},
    )
