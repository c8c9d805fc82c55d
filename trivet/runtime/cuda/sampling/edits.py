"""Launches the kernels that change scores one by one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton

from trivet.runtime.cuda.kernels.sampling import EXACT
from trivet.runtime.cuda.kernels.sampling.edits import (
    count_tokens,
    edit_rows,
    edit_seen,
    edit_tokens,
    mark_tokens,
)
from trivet.runtime.cuda.sampling.groups import Ranges

ROW_BLOCK = 2048
"""Scores of a row that one program works on."""
TOKEN_BLOCK = 256
"""The same for tokens of which a row says something."""

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of each chunk of each row of logits, [R, chunks]: the largest (NaN where one is not finite), the first id of it
(int32), the sum of e^(x - largest) (float64; 1 in rows that are not `summed`)."""


class Edits:
    """The edits of one batch: its table, and how often tokens came in the rows with penalties."""

    def __init__(self, table: Mapping[str, torch.Tensor], vocab_size: int, longest_history: int) -> None:
        self.table, self.vocab_size = table, vocab_size
        histories, rows = table["histories"], len(table["counted_rows"])
        self.grid = rows, triton.cdiv(longest_history, TOKEN_BLOCK)
        self.counts = histories.new_zeros((rows, vocab_size))
        self.first_places = torch.empty_like(histories, dtype=torch.int8)
        if not longest_history:
            return
        options = {"BLOCK": TOKEN_BLOCK, "num_warps": 4} | EXACT
        count_tokens[self.grid](
            histories, table["starts"], table["silent"], self.counts, self.first_places, vocab_size, **options
        )
        if count := len(table["edits"]):
            mark_tokens[(triton.cdiv(count, TOKEN_BLOCK),)](
                table["edits"], table["counted"], self.counts, count, vocab_size, **options
            )

    def start(self, logits: torch.Tensor, scores: torch.Tensor) -> Parts:
        """Fill `scores`: bias, masks and the leading operations of each row that has a place there."""
        shape = len(logits), triton.cdiv(self.vocab_size, ROW_BLOCK)
        parts = (
            logits.new_empty(shape),
            logits.new_empty(shape, dtype=torch.int32),
            logits.new_empty(shape, dtype=torch.float64),
        )
        self._run(logits, scores, (self.table["first_ops"], self.table["leading_ops"]), parts, FIRST=True)
        return parts

    def go_on(self, scores: torch.Tensor, ranges: Ranges) -> None:
        """Do further operations."""
        unused = self.table["kinds"]
        self._run(scores, scores, ranges, (scores, unused, scores), FIRST=False)

    def _run(self, logits: torch.Tensor, scores: torch.Tensor, ranges: Ranges, parts: Parts, **options: int) -> None:
        table, vocab_size = self.table, self.vocab_size
        ops = (*ranges, table["ops"], table["args"])
        sizes = vocab_size, table["ops"].shape[1], vocab_size // 2  # the watermark favours half of all
        options |= {"BITS": (vocab_size - 1).bit_length()} | EXACT
        edit_rows[(len(table["places"]), triton.cdiv(vocab_size, ROW_BLOCK))](
            *(logits, scores, table["places"], table["only_allowed"], table["summed"], *ops),
            table["watermark_keys"],
            *parts,
            *sizes,
            BLOCK=ROW_BLOCK,
            num_warps=8,
            **options,
        )
        options |= {"BLOCK": TOKEN_BLOCK, "num_warps": 4}
        if count := len(table["edits"]):
            edit_tokens[(triton.cdiv(count, TOKEN_BLOCK),)](
                *(table["edits"], logits, scores, table["places"], table["counted"], table["windows"], self.counts),
                *ops,
                *(table["penalties"], table["watermark_keys"], count),
                *sizes,
                **options,
            )
        if self.grid[1]:
            edit_seen[self.grid](
                *(table["histories"], table["starts"], self.first_places, table["counted_rows"]),
                *(table["counted"], table["windows"], self.counts),
                *(logits, scores, table["places"], table["only_allowed"], *ops),
                *(table["penalties"], table["watermark_keys"]),
                *sizes,
                **options,
            )
