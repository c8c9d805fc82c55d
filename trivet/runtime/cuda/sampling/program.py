"""What a chain asks the device to do, worked out once for each sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from trivet.runtime.cuda.sampling.infill import Pieces
from trivet.sampling.chain import Chain
from trivet.sampling.params import GREEDY_BELOW


class Op(IntEnum):
    """Codes of operations; those that the kernels know have the same there."""

    DIVIDE = 0
    TAKE_BEST = 1
    PENALTIES = 2
    TGI_PENALTIES = 3
    DRY = 4
    WATERMARK = 5
    TOP_K = 6
    TGI_TOP_K = 7
    TOP_P = 8
    MIN_P = 9
    TYPICAL_P = 10
    TGI_TYPICAL_P = 11
    TOP_N_SIGMA = 12
    XTC = 13
    DYNAMIC_TEMPERATURE = 14
    INFILL = 15


EDITS = frozenset({Op.DIVIDE, Op.PENALTIES, Op.TGI_PENALTIES, Op.DRY, Op.WATERMARK})
"""Change scores one by one; before the first of the others they are done over whole rows."""
NARROWED_BY_KERNEL = frozenset({Op.TOP_K, Op.TGI_TOP_K, Op.TOP_P, Op.MIN_P, Op.DIVIDE, Op.TAKE_BEST})


@dataclass(frozen=True, slots=True)
class Program:
    """The operations of a chain, in order, each with one number.

    The first `leading` of them edit whole rows. `by_kernel`: the kernel `choose` runs the rest, one program a row;
    else they are done on rows that are sorted as a whole. `pieces` are for the stage "infill".
    """

    chain: Chain
    ops: tuple[Op, ...]
    args: tuple[float, ...]
    leading: int
    by_kernel: bool
    pieces: Pieces | None
    edits_tokens: bool
    """Whether there may be something to say of single tokens, whatever the row."""
    counts_tokens: bool
    """Whether it matters how often tokens came."""
    processed: bool
    """Whether the log-probabilities asked for are of what the operations leave."""
    selector: str
    plainly_greedy: bool
    """Whether the best logit wins as it stands, where no token is suppressed."""

    @classmethod
    def of(cls, chain: Chain, vocab_size: int, pieces: Callable[[bytes], Pieces]) -> Program:
        """`pieces` gives those of `Chain.piece_parents`."""
        params, native = chain.params, chain.native
        pairs = [_operation(stage, chain, vocab_size) for stage in native.stages]
        ops, args = tuple(op for op, _ in pairs), tuple(arg for _, arg in pairs)
        leading = next((i for i, op in enumerate(ops) if op not in EDITS), len(ops))
        rest = set(ops[leading:])
        processed = params.logprobs is not None and params.logprobs_mode == "processed"
        beside = processed and bool(params.logprobs or params.logprob_token_ids)
        at_least = params.min_keep > 1 and bool(rest & {Op.TOP_P, Op.MIN_P})
        return cls(
            chain=chain,
            ops=ops,
            args=args,
            leading=leading,
            by_kernel=rest <= NARROWED_BY_KERNEL and native.selector == "draw" and not (beside or at_least),
            pieces=pieces(chain.piece_parents) if Op.INFILL in ops else None,
            edits_tokens=bool(params.logit_bias or params.allowed_token_ids or chain.bad_words) or Op.DRY in ops,
            counts_tokens=Op.PENALTIES in ops or Op.TGI_PENALTIES in ops,
            processed=processed,
            selector=native.selector,
            plainly_greedy=native.plainly_greedy,
        )


def _operation(stage: str, chain: Chain, vocab_size: int) -> tuple[Op, float]:
    params = chain.params
    match stage:
        case "temperature":
            if params.dynatemp_range > 0 and not params.mirostat:
                return Op.DYNAMIC_TEMPERATURE, 0.0
            temperature = float(np.float32(params.temperature))
            # Compared as the native sampler does it, in float32.
            greedy = temperature < float(np.float32(GREEDY_BELOW))
            return (Op.TAKE_BEST, 0.0) if greedy else (Op.DIVIDE, temperature)
        case "top_k" | "tgi_top_k":
            return Op[stage.upper()], float(min(max(params.top_k, params.min_keep), vocab_size))
        case "min_p":
            return Op.MIN_P, math.log(np.float32(params.min_p))
        case "top_p" | "typical_p" | "tgi_typical_p" | "top_n_sigma":
            return Op[stage.upper()], getattr(params, stage.removeprefix("tgi_"))
        case _:
            return Op[stage.upper()], 0.0
