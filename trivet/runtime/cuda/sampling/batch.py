"""The rows of a step, as the device is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch

from trivet import _native
from trivet.engine.plan import SampleRow
from trivet.runtime.cuda.sampling.groups import Group, group
from trivet.runtime.cuda.sampling.program import Op, Program
from trivet.runtime.cuda.sampling.random import draw_key, watermark_key
from trivet.runtime.cuda.sampling.reports import Reports, plan_reports
from trivet.runtime.cuda.sampling.upload import upload

_NO_OP = -1


class Kind(IntEnum):
    PLAIN = 0
    """The best logit wins as it stands."""
    TARGET = 1
    """Nothing is drawn."""
    DRAWN = 2
    """The kernel `choose` gives the token."""


@dataclass(slots=True)
class SamplingBatch:
    """R rows, of which C are drawn and have a place among the edited scores, and the tokens of P are counted."""

    num_rows: int
    reporting: list[int]
    """Rows that report a log-probability."""
    num_drawn: int
    longest_history: int
    """Tokens that are counted in one row, at most."""
    groups: list[Group]
    reports: list[Reports]
    table: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """On the device. Of all rows: kinds, targets, places (-1 for none), summed (whether the log-sum of the logits is
    asked for), only_allowed, draw_keys, watermark_keys, reported (whether by `choose`), counted and windows (places
    among the P, -1 for none) [R]; ops and args [R, width], and of these, 0 = first_ops..leading_ops..last_ops [R] are
    the leading edits and those of `choose`; penalties [R, 4]. Then drawn [C]; counted_rows, silent [P], starts [P + 1],
    histories; edits [N, 5]; raw: rows that report
    from the unmodified logits."""


def make_batch(
    rows: Sequence[SampleRow], programs: Sequence[Program], vocab_size: int, device: torch.device
) -> SamplingBatch:
    kinds = [_kind(row, program) for row, program in zip(rows, programs, strict=True)]
    drawn = [r for r, kind in enumerate(kinds) if kind == Kind.DRAWN]
    reporting = [r for r, row in enumerate(rows) if _reports(row, vocab_size)]
    raw = [r for r in reporting if not (kinds[r] == Kind.DRAWN and programs[r].processed)]
    groups = group(drawn, programs)
    reports = plan_reports(raw, [g.rows for g in groups], rows, vocab_size)

    places = np.full(len(rows), -1, np.int32)
    places[drawn] = np.arange(len(drawn))
    summed = np.zeros(len(rows), np.int32)
    summed[raw] = 1
    arrays: dict[str, np.ndarray] = {
        "kinds": np.array(kinds, np.int32),
        "targets": np.array([row.target for row in rows], np.int32),
        "places": places,
        "summed": summed,
        "drawn": np.array(drawn, np.int32),
        "raw": np.array(raw, np.int32),
    }
    arrays |= _operations(drawn, rows, programs) | _edits(drawn, rows, programs, vocab_size)
    longest_history = int(np.diff(arrays["starts"]).max(initial=0))
    parts: list[tuple[Group | Reports, str]] = [(g, f"group {i}/") for i, g in enumerate(groups)]
    parts += [(r, f"report {i}/") for i, r in enumerate(reports)]
    for part, prefix in parts:
        own = part.arrays(rows, programs, places) if isinstance(part, Group) else part.arrays(vocab_size)
        arrays |= {prefix + name: array for name, array in own.items()}
    table = upload(arrays, device)
    for part, prefix in parts:
        part.table = {name.removeprefix(prefix): t for name, t in table.items() if name.startswith(prefix)}
    return SamplingBatch(len(rows), reporting, len(drawn), longest_history, groups, reports, table)


def _kind(row: SampleRow, program: Program) -> Kind:
    if row.target >= 0:
        return Kind.TARGET
    if program.plainly_greedy and not row.suppressed:
        return Kind.PLAIN
    return Kind.DRAWN


def _reports(row: SampleRow, vocab_size: int) -> bool:
    params = row.chain.params
    return (params.logprobs if row.target < 0 else params.prompt_logprobs) is not None and row.target < vocab_size


def _operations(drawn: Sequence[int], rows: Sequence[SampleRow], programs: Sequence[Program]) -> dict[str, np.ndarray]:
    size = len(rows)
    width = max((len(programs[r].ops) for r in drawn), default=0) or 1
    leading, last, reported = (np.zeros(size, np.int32) for _ in range(3))
    draw_keys, watermark_keys = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    ops, args = np.full((size, width), _NO_OP, np.int32), np.ones((size, width), np.float32)
    for r in drawn:
        row, program = rows[r], programs[r]
        if program.ops:
            ops[r, : len(program.ops)], args[r, : len(program.ops)] = program.ops, program.args
        leading[r] = program.leading
        last[r] = len(program.ops) if program.by_kernel else program.leading
        reported[r] = program.processed
        draw_keys[r] = draw_key(row.seed, row.position)
        if Op.WATERMARK in program.ops:
            if len(row.history):
                watermark_keys[r] = watermark_key(int(row.history[-1]))
            else:
                ops[r, ops[r] == Op.WATERMARK] = _NO_OP
    return {
        "ops": ops,
        "args": args,
        "first_ops": np.zeros(size, np.int32),
        "leading_ops": leading,
        "last_ops": last,
        "reported": reported,
        "draw_keys": draw_keys,
        "watermark_keys": watermark_keys,
    }


def _edits(
    drawn: Sequence[int], rows: Sequence[SampleRow], programs: Sequence[Program], vocab_size: int
) -> dict[str, np.ndarray]:
    """What is to be done to single tokens.

    The tokens of a row with penalties of both kinds are counted twice: TGI's are of its whole history (`counted`), the
    others may be of a window of that (`windows`). For other rows both are the same.
    """
    only_allowed, counted = np.zeros(len(rows), np.int32), np.full(len(rows), -1, np.int32)
    windows = counted.copy()
    penalties = np.ones((len(rows), 4), np.float32)
    edited: list[int] = []
    counted_rows: list[int] = []
    histories: list[np.ndarray] = []
    silent: list[int] = []
    for r in drawn:
        row, program = rows[r], programs[r]
        params, length = program.chain.params, len(row.history)
        if program.edits_tokens or row.suppressed:
            edited.append(r)
            only_allowed[r] = params.allowed_token_ids is not None
        if program.counts_tokens:
            if Op.TGI_PENALTIES in program.ops:
                counted[r] = windows[r] = len(histories)
                histories.append(row.history)
                silent.append(0)
            if Op.PENALTIES in program.ops:
                history, prompt = row.history, min(row.prompt_len, length)
                if params.penalty_last_n >= 0:
                    history, prompt = history[max(0, length - params.penalty_last_n) :], 0
                windows[r] = len(histories)
                if Op.TGI_PENALTIES not in program.ops:
                    counted[r] = windows[r]
                histories.append(history)
                silent.append(prompt)
            counted_rows += [r] * (len(histories) - len(counted_rows))
            penalties[r, :3] = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
            penalties[r, 3] = max(length, 1)
    edits = np.zeros((0, 5), np.int32)
    if edited:
        edits = _native.token_edits(vocab_size, [rows[r] for r in edited], edited)
    return {
        "only_allowed": only_allowed,
        "counted": counted,
        "windows": windows,
        "penalties": penalties,
        "counted_rows": np.array(counted_rows, np.int32),
        "histories": np.concatenate([np.zeros(0, np.int32), *histories]),
        "starts": np.cumsum([0, *map(len, histories)], dtype=np.int32),
        "silent": np.array(silent, np.int32),
        "edits": edits,
    }
