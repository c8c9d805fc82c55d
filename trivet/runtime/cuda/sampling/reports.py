"""Tokens whose log-probabilities are reported beside the row's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import triton

from trivet.engine.plan import SampleRow
from trivet.runtime.cuda.kernels.sampling import EXACT
from trivet.runtime.cuda.kernels.sampling.logprobs import sort_keys
from trivet.runtime.cuda.sampling.stages import left, log_total

BLOCK = 4096
ROWS_AT_ONCE = 64
"""Bounds the memory that a prompt's log-probabilities take."""
MORE_TIES = 8
"""Tokens fetched beyond the number asked for, where those equal to the last are reported too."""


@dataclass(slots=True)
class Reports:
    """Rows that report the best tokens, or some that were asked for, from the same scores."""

    group: int | None
    """Of what its rows' operations left; None: of the unmodified logits."""
    by_id: bool
    ties: bool
    """Whether what is equal to the last of the best is reported too."""
    rows: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    """Which rows of the group, or of the logits, they are."""
    counts: list[int] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    """Ids, where `by_id`."""
    table: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """On the device: sources [W], last [W, 1] (one less than the counts), ids [W, n] (-1 for none)."""

    def arrays(self, vocab_size: int) -> dict[str, np.ndarray]:
        """The table."""
        ids = np.full((len(self.asked), max(map(len, self.asked), default=0)), -1, np.int64)
        for i, asked in enumerate(self.asked):
            ids[i, : len(asked)] = [token if token < vocab_size else -1 for token in asked]
        return {
            "sources": np.array(self.sources, np.int64),
            "last": np.array(self.counts, np.int64)[:, None] - 1,
            "ids": ids,
        }

    def run(self, values: torch.Tensor, log_sums: torch.Tensor) -> Reported:
        """`values` are the logits [R, V], with their log-sums [R], or what the group's operations left [G, V]."""
        parts = [
            self._run(values, log_sums, slice(start, start + ROWS_AT_ONCE))
            for start in range(0, len(self.rows), ROWS_AT_ONCE)
        ]
        ids, logprobs, num_equal, all_ = (
            None if columns[0] is None else torch.cat(columns) for columns in zip(*parts, strict=True)
        )
        assert logprobs is not None
        return Reported(self, ids, logprobs, num_equal, all_)

    def _run(self, values: torch.Tensor, log_sums: torch.Tensor, part: slice) -> tuple[torch.Tensor | None, ...]:
        """The fields of `Reported` for some of the rows."""
        vocab_size, sources = values.shape[1], self.table["sources"][part]
        x = values.index_select(0, sources)
        sums = log_total(x) if self.group is not None else log_sums.index_select(0, sources)[:, None]
        if self.by_id:
            ids = self.table["ids"][part]
            found = torch.where(ids < 0, -math.inf, x.gather(1, ids.clamp(min=0)))
            return None, (found - sums).float(), None, None
        most = min(max(self.counts) + (MORE_TIES if self.ties else 0), vocab_size)
        keys = torch.empty_like(x, dtype=torch.int64)
        sort_keys[(len(x), triton.cdiv(vocab_size, BLOCK))](x, keys, vocab_size, BLOCK=BLOCK, num_warps=8, **EXACT)
        ids = 0xFFFFFFFF - (keys.topk(most, dim=1).values & 0xFFFFFFFF)
        best = x.gather(1, ids)
        logprobs = (best - sums).float()
        if not self.ties:
            return ids.int(), logprobs, None, None
        there = left(x)
        least = best.gather(1, torch.minimum(self.table["last"][part], there.clamp(min=1) - 1))
        num_equal = torch.minimum((x >= least).sum(1, keepdim=True), there)[:, 0]
        return ids.int(), logprobs, num_equal, (x - sums).float()


@dataclass(slots=True)
class Reported:
    """What a step gave for the rows of `reports`."""

    reports: Reports
    ids: torch.Tensor | None
    """[W, n] int32, the best first; None where they were asked for."""
    logprobs: torch.Tensor
    """[W, n] float32; minus infinity for what is no candidate."""
    num_equal: torch.Tensor | None = None
    """[W] how many are as good as the last that was asked for; None where ties do not count."""
    all: torch.Tensor | None = None
    """[W, V] float32, on the device, to look for more ties in."""

    def lists(self, fails: Sequence[bool]) -> dict[int, list[tuple[int, float]]]:
        """By row of the batch; the tensors but `all` are on the host now. Rows that failed hold anything."""
        reports, logprobs = self.reports, self.logprobs.tolist()
        if self.ids is None:
            asked = zip(reports.rows, reports.asked, logprobs, strict=True)
            return {r: list(zip(ids, row, strict=False)) for r, ids, row in asked}
        ids, out = self.ids.tolist(), {}
        for w, (r, count) in enumerate(zip(reports.rows, reports.counts, strict=True)):
            if self.num_equal is not None and self.all is not None and not fails[r]:
                count = int(self.num_equal[w])
                if count > len(ids[w]):  # rare: more than were fetched
                    row = self.all[w].cpu()
                    ids[w] = row.sort(descending=True, stable=True).indices[:count].tolist()
                    logprobs[w] = row[ids[w]].tolist()
            pairs = zip(ids[w][:count], logprobs[w][:count], strict=True)
            out[r] = [(token, logprob) for token, logprob in pairs if logprob > -math.inf]
        return out


def plan_reports(
    raw: Sequence[int], groups: Sequence[Sequence[int]], rows: Sequence[SampleRow], vocab_size: int
) -> list[Reports]:
    """For the rows `raw`, whose log-probabilities are those of the logits, and those of the groups that ask for what
    their operations leave."""
    found: dict[tuple[int | None, bool, bool], Reports] = {}
    places = [(None, r, r) for r in raw] + [
        (g, i, r) for g, members in enumerate(groups) for i, r in enumerate(members)
    ]
    for group, source, r in places:
        params, drawn = rows[r].chain.params, rows[r].target < 0
        processed = drawn and params.logprobs_mode == "processed"
        wanted = params.logprobs if drawn else params.prompt_logprobs
        if wanted is None or (group is not None and not processed):
            continue
        count = min(wanted, vocab_size) if wanted >= 0 else vocab_size
        by_id = drawn and bool(params.logprob_token_ids)
        if by_id or count:
            key = group, by_id, processed and not by_id
            reports = found.setdefault(key, Reports(*key))
            reports.rows.append(r)
            reports.sources.append(source)
            reports.counts.append(count)
            if by_id:
                reports.asked.append(params.logprob_token_ids or [])
    return list(found.values())
