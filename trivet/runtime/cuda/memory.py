"""What steps take of a device's memory, and what to say where it does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from triton.runtime.errors import OutOfResources

from trivet.engine.plan import SampleRow, StepPlan
from trivet.engine.scheduler import PROMPT_LOGIT_ROWS
from trivet.errors import EngineError
from trivet.runtime.cuda.device import Device, out_of_memory
from trivet.runtime.cuda.step import HostStep
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams
from trivet.units import amount

MOST_SEQUENCES = 65_528
"""Of a step. Sequences are the second dimension of attention's grid, of which CUDA allows 65,535; graphs have multiples
of 8."""

_LARGEST_CHAIN = Chain(
    SamplingParams(
        stages=("penalties", "typical_p", "top_p", "infill", "temperature"),
        repetition_penalty=1.1,
        typical_p=0.5,
        top_p=0.9,
        logprobs=20,
        logprobs_mode="processed",
        prompt_logprobs=20,
    )
)


HISTORY_BYTES = 2 * 4 + 1
"""Of a token whose coming is counted: its id, in the step that runs and the one before, and whether it is the first."""


def history_bytes(max_sequences: int, max_context: int) -> int:
    """What `largest_samples` take beyond their own with all the tokens that there may be before them. They share what
    the cache has of a prefix, but not this."""
    return max_sequences * max_context * HISTORY_BYTES


def largest_samples(rows: int, max_sequences: int) -> list[SampleRow]:
    """Choices that need as much memory as any, but for their histories, one for each sequence, and prompt
    log-probabilities."""
    return [
        SampleRow(_LARGEST_CHAIN, 0, 1, 1, np.zeros(1, np.int32), target=-1 if row < max_sequences else 0)
        for row in range(rows)
    ]


def largest_steps(max_tokens: int, max_sequences: int, max_context: int, block_size: int) -> tuple[HostStep, HostStep]:
    """The largest prompt, and single tokens of as many sequences as there may be, none of which writes anything and
    all of which read the cache's first block.
    """
    rows = min(max_tokens, max_sequences + PROMPT_LOGIT_ROWS)
    sequences = min(max_tokens, max_sequences)
    length = min(max_tokens, max_context)
    starts = np.unique([*range(0, max_tokens, length), max_tokens])
    prompt = _step(starts, np.diff(starts), length, rows, block_size)
    decode = _step(np.arange(sequences + 1), np.ones(sequences), max_context, sequences, block_size)
    return prompt, decode


def _step(starts: np.ndarray, lengths: np.ndarray, max_context: int, rows: int, block_size: int) -> HostStep:
    """`max_context` bounds what kernels reserve, whatever is there."""
    tokens = int(starts[-1])
    plan = StepPlan(
        token_ids=np.zeros(tokens, np.int32),
        positions=np.zeros(tokens, np.int32),
        query_starts=starts.astype(np.int32),
        context_lens=lengths.astype(np.int32),
        block_tables=np.zeros((len(lengths), -(-max_context // block_size)), np.int32),
        logit_rows=np.arange(tokens - rows, tokens, dtype=np.int32),
        samples=[],
    )
    step = HostStep.of(plan, block_size)
    step.slots[:] = -1
    step.max_context_len = max_context
    return step


@contextmanager
def or_engine_error(device: Device, what: str, advice: str) -> Iterator[None]:
    """Turns memory that does not suffice into an EngineError with the numbers."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise EngineError(f"not enough memory on {device.name} for {what}{_free(device)}; {advice}") from None


@contextmanager
def or_kernel_error(device: Device, head_dim: int, cache_type: str) -> Iterator[None]:
    """Turns shared memory or registers that do not suffice for a kernel into an EngineError: what attention takes of
    them grows with the heads and with the bytes of what is cached."""
    try:
        yield
    except OutOfResources as error:
        raise EngineError(
            f"a kernel needs {error.required} of {error.name}, and {device.name} has {error.limit}: attention takes "
            f"more for wide heads (here {head_dim} columns) and a large kv_cache_dtype (here {cache_type}); try bf16 "
            "or fp8, or use device cpu"
        ) from None


def _free(device: Device) -> str:
    try:
        free, total = device.memory()
    except RuntimeError:  # which takes memory itself
        return ""
    return f": {amount(free)} of {amount(total)} are still free"
