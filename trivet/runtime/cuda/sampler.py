"""Sampling on the device: the same tokens as the native sampler gives on the same logits (`native/sampling`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
import triton

from trivet.engine.plan import SampleRow
from trivet.runtime.cuda.kernels.sampling import EXACT
from trivet.runtime.cuda.kernels.sampling.candidates import GROUP
from trivet.runtime.cuda.kernels.sampling.choice import choose, finish_rows
from trivet.runtime.cuda.kernels.sampling.logprobs import report
from trivet.runtime.cuda.sampling.batch import SamplingBatch, make_batch
from trivet.runtime.cuda.sampling.edits import Edits, Parts
from trivet.runtime.cuda.sampling.infill import Pieces
from trivet.runtime.cuda.sampling.program import Program
from trivet.runtime.cuda.sampling.samples import DeviceSamples, Results
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams

LIST_BLOCK = 4096
"""Candidates that the program of a row works on at a time."""


class DeviceSampler:
    """Samples the rows of a step, each by its own chain, without waiting for the device.

    Leading changes of scores (bias, penalties, temperature, ...) are made for all rows together; then one program a row
    narrows the candidates and draws (`choose`). Rows with rarer stages are narrowed in between, as whole sorted rows.
    """

    def __init__(self, vocab_size: int, device: torch.device | str) -> None:
        self.vocab_size = vocab_size
        self.device = torch.device(device)
        self._programs: dict[int, Program] = {}
        # A server has one tokenizer.
        self._pieces = lru_cache(maxsize=2)(partial(Pieces.of, vocab_size=vocab_size, device=self.device))

    def prepare(self, rows: Sequence[SampleRow]) -> SamplingBatch:
        """Put together what the device has to know, and send it there."""
        chains = {id(row.chain): row.chain for row in rows}
        self._programs = {  # each holds its chain, so that no other has its id
            key: self._programs.get(key) or Program.of(chain, self.vocab_size, self._pieces)
            for key, chain in chains.items()
        }
        return make_batch(rows, [self._programs[id(row.chain)] for row in rows], self.vocab_size, self.device)

    def warm_up(self) -> None:
        """Compile and load all kernels, so that no request waits for that."""
        params = [
            SamplingParams(temperature=0.0, logprobs=1),
            SamplingParams(top_k=2, presence_penalty=1.0, logit_bias={0: 1.0}),
            SamplingParams(typical_p=0.5, presence_penalty=1.0, stages=("typical_p", "infill", "penalties")),
        ]
        rows = [SampleRow(Chain(p), 0, 1, 0, np.zeros(1, np.int32)) for p in params]
        self.sample(torch.zeros((len(rows), self.vocab_size), device=self.device), self.prepare(rows))

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> DeviceSamples:
        """Draw (or score, where a row has a target) a token for each row of `logits` [R, V] (float32, contiguous)."""
        size, vocab_size = logits.shape
        if size != batch.num_rows or vocab_size != self.vocab_size:
            expected = f"for {batch.num_rows} rows of {self.vocab_size} tokens"
            raise ValueError(f"sample: logits of {size} rows of {vocab_size} tokens {expected}")
        table = batch.table
        results = Results.on(self.device, size)
        scores = logits.new_empty((batch.num_drawn, vocab_size))
        settled = torch.zeros(batch.num_drawn, dtype=torch.int32, device=self.device)
        edits = Edits(table, vocab_size, batch.longest_history)
        log_sums = self._finish_rows(edits.start(logits, scores), batch, results)
        given = [group.narrow(scores, settled, edits.go_on) for group in batch.groups]
        if batch.num_drawn:
            self._choose(scores, settled, batch, results)
        left = [
            group.leave(x, scores, settled, results.tokens, results.states)
            for group, x in zip(batch.groups, given, strict=True)
        ]
        if count := len(table["raw"]):
            report[(count,)](
                *(logits, table["raw"], results.tokens, log_sums, results.logprobs, results.ranks, vocab_size),
                BLOCK=LIST_BLOCK,
                num_warps=8,
                **EXACT,
            )
        reported = [r.run(logits if r.group is None else left[r.group], log_sums) for r in batch.reports]
        return DeviceSamples(batch, results, reported)

    def _finish_rows(self, parts: Parts, batch: SamplingBatch, results: Results) -> torch.Tensor:
        """Fill in the errors, and the tokens of rows without a stage; returns the log-sums of the logits [R]."""
        rows, chunks = parts[0].shape
        log_sums = parts[0].new_empty(rows, dtype=torch.float64)
        finish_rows[(rows,)](
            *(*parts, batch.table["kinds"], batch.table["targets"], results.tokens, results.errors, log_sums, chunks),
            BLOCK=triton.next_power_of_2(chunks),
            num_warps=1,
            **EXACT,
        )
        return log_sums

    def _choose(self, scores: torch.Tensor, settled: torch.Tensor, batch: SamplingBatch, results: Results) -> None:
        table, groups = batch.table, triton.cdiv(self.vocab_size, GROUP.value)
        choose[(batch.num_drawn,)](
            *(table["drawn"], table["places"], scores),
            *(torch.empty_like(scores, dtype=torch.int32), scores.new_empty((batch.num_drawn, groups)), settled),
            *(table["leading_ops"], table["last_ops"], table["ops"], table["args"]),
            *(table["draw_keys"], table["reported"]),
            *(results.tokens, results.errors, results.logprobs, results.ranks),
            *(self.vocab_size, table["ops"].shape[1], groups),
            BLOCK=LIST_BLOCK,
            num_warps=16,
            **EXACT,
        )
