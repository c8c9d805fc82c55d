"""Rows with rarer stages, or choices that keep a state: those of the same operations are narrowed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trivet.engine.plan import SampleRow
from trivet.runtime.cuda.sampling import selectors, stages
from trivet.runtime.cuda.sampling.infill import Pieces, keep_infill
from trivet.runtime.cuda.sampling.program import EDITS, Op, Program
from trivet.runtime.cuda.sampling.random import coin, draw_key
from trivet.sampling.params import GREEDY_BELOW

ROWS_AT_ONCE = 32
"""Bounds the memory that sorting takes."""

_STAGES = {
    Op.TOP_K: stages.top_k,
    Op.TGI_TOP_K: stages.tgi_top_k,
    Op.TOP_P: stages.top_p,
    Op.MIN_P: stages.min_p,
    Op.TYPICAL_P: stages.typical_p,
    Op.TGI_TYPICAL_P: stages.tgi_typical_p,
    Op.TOP_N_SIGMA: stages.top_n_sigma,
    Op.XTC: stages.xtc,
}

_KNOBS = (
    *("temperature", "least_temperature", "most_temperature", "dynatemp_exponent"),
    *("min_keep", "xtc_threshold", "xtc_strikes"),
    *("mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "state_0", "state_1"),
)

Ranges = tuple[torch.Tensor, torch.Tensor]
"""The first of each row's operations that are meant, and the one after the last, [R] each."""


@dataclass(slots=True)
class Group:
    """`ops` are those after the leading edits."""

    ops: tuple[Op, ...]
    selector: str
    pieces: Pieces | None
    rows: list[int]
    table: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """On the device: rows of the batch and places (of the scores) [G], args [G, len(ops)], knobs [G, …]; for the i-th
    of the operations, if it is an edit of single scores, `first i` and `last i` [R]; and where there are `pieces`, the
    tokens `ends` [G, E] that end generation, the vocabulary's size for none."""

    def arrays(
        self, rows: Sequence[SampleRow], programs: Sequence[Program], places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The table. `places` are those of all rows of the batch."""
        args = [programs[r].args[programs[r].leading :] for r in self.rows]
        out: dict[str, np.ndarray] = {
            "rows": np.array(self.rows, np.int64),
            "places": places[self.rows].astype(np.int64),
            "args": np.array(args, np.float64).reshape(len(self.rows), len(self.ops)),
            "knobs": np.array([_knobs(rows[r]) for r in self.rows], np.float64),
        }
        if self.pieces is not None:
            vocab_size = len(self.pieces.parents)
            ends = [rows[r].chain.end_tokens for r in self.rows]
            out["ends"] = np.full((len(ends), max(1, *map(len, ends))), vocab_size, np.int64)
            for line, tokens in zip(out["ends"], ends, strict=True):
                line[: len(tokens)] = [token if 0 <= token < vocab_size else vocab_size for token in tokens]
        for i, op in enumerate(self.ops):
            if op in EDITS and op != Op.DIVIDE:
                first = np.zeros(len(rows), np.int32)
                first[self.rows] = [programs[r].leading + i for r in self.rows]
                last = first.copy()
                last[self.rows] += 1
                out |= {f"first {i}": first, f"last {i}": last}
        return out

    def narrow(
        self, scores: torch.Tensor, settled: torch.Tensor, edit: Callable[[torch.Tensor, Ranges], None]
    ) -> torch.Tensor:
        """Run the operations, and what the selector does before it draws; returns the scores [G, V] before that.

        Leaves in `scores` what is to be drawn from, and in `settled` [places] whether the best one is to be taken.
        `edit(scores, ranges)` does operations that are edits of single scores.
        """
        table, knobs = self.table, self.knobs
        x = scores.index_select(0, table["places"])
        done = torch.zeros_like(x[:, :1], dtype=torch.bool)
        end_is_possible = done if self.pieces is None else self._end_is_possible(x)
        for i, op in enumerate(self.ops):
            arg = table["args"][:, i : i + 1]
            if op in _STAGES:
                changed = _STAGES[op](x, arg, knobs)
            elif op == Op.INFILL and self.pieces is not None:
                changed = keep_infill(x, table["ends"], end_is_possible, self.pieces)
            elif op == Op.DIVIDE:
                changed = stages.bounded(x / arg.float())
            elif op == Op.TAKE_BEST:
                changed, done = x, torch.ones_like(done)
            elif op == Op.DYNAMIC_TEMPERATURE:
                temperature = stages.dynamic_temperature(x, knobs)
                done = done | (temperature < GREEDY_BELOW)
                changed = stages.bounded(x / temperature)
            else:
                scores.index_copy_(0, table["places"], x)
                edit(scores, (table[f"first {i}"], table[f"last {i}"]))
                changed = scores.index_select(0, table["places"])
            x = torch.where(done, x, changed)
        scores.index_copy_(0, table["places"], torch.where(done, x, selectors.before(self.selector, x, knobs)))
        settled.index_copy_(0, table["places"], done[:, 0].int())
        return x

    def leave(
        self,
        given: torch.Tensor,
        scores: torch.Tensor,
        settled: torch.Tensor,
        tokens: torch.Tensor,
        states: torch.Tensor,
    ) -> torch.Tensor:
        """When the tokens [R] are chosen, fill in the rows' `states` [R, 2]; returns the scores [G, V] that were drawn
        from. `given` is what `narrow` returned."""
        table, knobs = self.table, self.knobs
        left = scores.index_select(0, table["places"])
        if self.selector != "draw":
            chosen = tokens.index_select(0, table["rows"]).long()[:, None]
            before = torch.cat([knobs["state_0"], knobs["state_1"]], 1)
            after = selectors.after(self.selector, left, given, chosen, knobs)
            done = settled.index_select(0, table["places"])[:, None] != 0
            states.index_copy_(0, table["rows"], torch.where(done, before, after))
        return left

    def _end_is_possible(self, x: torch.Tensor) -> torch.Tensor:
        """[G, 1] whether the first of the tokens that end generation is, before anything is narrowed down."""
        first = self.table["ends"][:, :1]
        known = first < x.shape[1]
        return known & (x.gather(1, torch.where(known, first, 0)) > -math.inf)

    @property
    def knobs(self) -> stages.Knobs:
        """Parameters that are not an operation's only one, each [G, 1]."""
        return {name: self.table["knobs"][:, i : i + 1] for i, name in enumerate(_KNOBS)}


def group(rows: Sequence[int], programs: Sequence[Program]) -> list[Group]:
    """Those of `rows` that the kernels cannot do alone."""
    groups: dict[tuple[tuple[Op, ...], str, Pieces | None], list[int]] = {}
    for r in rows:
        program = programs[r]
        if not program.by_kernel:
            key = program.ops[program.leading :], program.selector, program.pieces
            groups.setdefault(key, []).append(r)
    return [
        Group(*key, rows=own[start : start + ROWS_AT_ONCE])
        for key, own in groups.items()
        for start in range(0, len(own), ROWS_AT_ONCE)
    ]


def _knobs(row: SampleRow) -> tuple[float | np.floating, ...]:
    params = row.chain.params
    temperature, spread = np.float32(params.temperature), np.float32(params.dynatemp_range)
    strikes = coin(draw_key(row.seed, row.position)) <= np.float32(params.xtc_probability)
    return (
        *(temperature, max(np.float32(0), temperature - spread), temperature + spread),
        *(np.float32(params.dynatemp_exponent), params.min_keep, np.float32(params.xtc_threshold), float(strikes)),
        *(params.mirostat_tau, params.mirostat_eta, params.adaptive_target, params.adaptive_decay),
        *(row.state or row.chain.native.first_state or (0.0, 0.0)),
    )
