"""What one engine step does, as a value: it can be printed, logged and replayed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from trivet.engine.request import TokenLogprob
from trivet.sampling.chain import Chain


class SampleRow(msgspec.Struct, gc=False):
    """How the logits of one row become a token.

    `position` is the number of tokens before the one drawn: with `seed` it fixes the random number. They are the first
    of `tokens` (int32), prompt then output; `prompt_len` of them are the prompt. Where the chain does not need the
    history, the last may not be there yet. `target` >= 0 draws nothing: it asks for the log-probability of that token,
    with the best `prompt_logprobs` beside it (prompt log-probabilities). `suppressed` tokens are impossible (end tokens
    before min_tokens). `state` is what the choice of the token before left, () before the first.
    """

    chain: Chain
    seed: int
    position: int
    prompt_len: int
    tokens: np.ndarray
    target: int = -1
    suppressed: tuple[int, ...] = ()
    state: tuple[float, ...] = ()

    @property
    def history(self) -> np.ndarray:
        """The tokens before the one drawn."""
        return self.tokens[: self.position]


@dataclass(slots=True)
class StepPlan:
    """Sequences s = 0..S-1 bring tokens `query_starts[s]:query_starts[s+1]` of the T tokens of this step.

    All arrays are int32 and C-contiguous.
    """

    token_ids: np.ndarray
    """[T]; -1 - r stands for the token that the step started before this one draws for its row r."""
    positions: np.ndarray
    """[T] position of each token in its sequence."""
    query_starts: np.ndarray
    """[S + 1]"""
    context_lens: np.ndarray
    """[S] tokens of the sequence in the cache after this step."""
    block_tables: np.ndarray
    """[S, B] block ids in order, padded with -1: token p is in block `table[p // size]`, slot `p % size`."""
    logit_rows: np.ndarray
    """[R] rows (0..T-1), ascending, whose logits are needed."""
    samples: list[SampleRow]
    """R entries, one for each of `logit_rows`."""

    def resolve(self, tokens: np.ndarray) -> StepPlan:
        """This plan with `tokens`, which the step before drew, in the place of what stands for them."""
        token_ids = self.token_ids.copy()
        unknown = token_ids < 0
        token_ids[unknown] = tokens[-1 - token_ids[unknown]]
        return replace(self, token_ids=token_ids)

    def part(self, index: int) -> StepPlan:
        """What sequence `index` brings, as a plan of its own."""
        start, stop = self.query_starts[index : index + 2]
        first, last = np.searchsorted(self.logit_rows, (start, stop))
        return StepPlan(
            token_ids=self.token_ids[start:stop],
            positions=self.positions[start:stop],
            query_starts=np.array([0, stop - start], np.int32),
            context_lens=self.context_lens[index : index + 1],
            block_tables=self.block_tables[index : index + 1],
            logit_rows=self.logit_rows[first:last] - start,
            samples=self.samples[first:last],
        )


@dataclass(slots=True)
class StepOutput:
    """`tokens[r]` answers `plan.samples[r]` (the target itself where one was given).

    `logprobs[r]` is None where the row asked for none. `errors[r]` is a message where the row could not be sampled
    ("non-finite logits"), else None; its token is any of the vocabulary. `states` has those for the next token, of rows
    whose choice leaves one (mirostat, adaptive_p).
    """

    tokens: np.ndarray
    logprobs: list[TokenLogprob | None]
    errors: list[str | None]
    states: dict[int, tuple[float, ...]] = field(default_factory=dict)
