"""From edited scores to a token."""

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.sampling.arithmetic import IMPOSSIBLE, NO_TOKEN
from trivet.runtime.cuda.kernels.sampling.candidates import (
    GROUP,
    count_above,
    divide,
    draw,
    first_best,
    keep,
    largest,
    largest_of_groups,
    last_needed,
    mass_from,
    score_of,
)

DIVIDE = tl.constexpr(0)
TAKE_BEST = tl.constexpr(1)
TOP_K = tl.constexpr(6)
TGI_TOP_K = tl.constexpr(7)
TOP_P = tl.constexpr(8)
MIN_P = tl.constexpr(9)

PLAIN = tl.constexpr(0)
TARGET = tl.constexpr(1)

NON_FINITE = tl.constexpr(1)
NOTHING_LEFT = tl.constexpr(2)


@triton.jit
def finish_rows(
    maxima,
    best_ids,
    sums,  # [R, chunks] of `edit_rows`
    kinds,
    targets,  # [R]
    tokens,
    errors,
    log_sums,  # [R]: the logarithm of the sum of e^x, float64
    chunks,
    BLOCK: tl.constexpr,
):
    """The error, the log-sum and, where no stage has a say in it, the token of each row."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    part = row * chunks + at
    x = tl.load(maxima + part, mask=at < chunks, other=IMPOSSIBLE)
    broken = tl.max((x != x).to(tl.int32))
    best = tl.max(x)
    token = tl.min(tl.where(x == best, tl.load(best_ids + part, mask=at < chunks, other=NO_TOKEN), NO_TOKEN))
    mass = tl.load(sums + part, mask=at < chunks, other=0.0) * tl.exp((x - best).to(tl.float64))
    kind = tl.load(kinds + row)
    token = tl.where(kind == TARGET, tl.load(targets + row), tl.where(kind == PLAIN, token, 0))
    tl.store(tokens + row, tl.where(broken != 0, 0, token))
    tl.store(errors + row, tl.where(broken != 0, NON_FINITE, 0))
    tl.store(log_sums + row, best.to(tl.float64) + tl.log(tl.sum(mass)))


@triton.jit
def narrow(scores, ids, maxima, n, listed, op, arg, vocab_size, BLOCK: tl.constexpr):
    """Keeps what a narrowing operation keeps; returns how many.

    First all from a bound on that is quickly found, as the native shortlist has it, then of these the right ones.
    """
    best = largest(scores, n, BLOCK)
    counted = op != TOP_P
    total = tl.full([], 1.0, tl.float64)
    if op == TOP_P:
        total = mass_from(scores, n, IMPOSSIBLE, best, False, BLOCK)
    least = tl.full([], IMPOSSIBLE, tl.float32)
    for phase in range(2):
        border = tl.full([], IMPOSSIBLE, tl.float32)
        ties = n
        source, count = scores, n
        searched = op != MIN_P
        if phase == 0:
            if op == TOP_P:
                # Tokens of less than (1 - p) / V each have less than 1 - p in all; half of it leaves room for rounding.
                share = total * (0.5 * (1.0 - arg.to(tl.float64)) / vocab_size)
                border = (best.to(tl.float64) + tl.log(share)).to(tl.float32)
                searched = op == MIN_P
            elif op == MIN_P:
                border = best + arg
            elif ~listed & (arg <= vocab_size // GROUP // 2):
                count = largest_of_groups(scores, n, maxima, BLOCK)
                source = maxima
            else:
                searched = op == MIN_P
        if searched & ((op == TOP_P) | (arg < count)):
            border, needed = last_needed(source, count, least, best, total, arg, counted, BLOCK)
            if (phase == 1) & (op != TGI_TOP_K):
                ties = needed
        if (border > IMPOSSIBLE) | ((phase == 0) & ~listed):
            n = keep(scores, ids, n, listed | (phase == 1), border, tl.where(border > IMPOSSIBLE, ties, 0), BLOCK)
            least = border
    return n


@triton.jit(do_not_specialize=["width"])
def choose(
    rows,
    places,  # [C], of the rows that this is about; [R]
    scores,
    ids,  # [places, vocab_size]; `ids` is scratch
    maxima,  # [places, groups], scratch
    settled,  # [places]: 1 where the best one is to be taken
    first_ops,
    last_ops,  # [R]
    ops,
    args,  # [R, width]
    draw_keys,  # [R]
    reported,  # [R]: whether the log-probability among the candidates is asked for
    tokens,
    errors,
    logprobs,
    ranks,  # [R]
    vocab_size,
    width,
    groups,
    BLOCK: tl.constexpr,
):
    """Runs the operations of a row's chain that narrow its candidates, and chooses one of them."""
    row = tl.load(rows + tl.program_id(0))
    place = tl.load(places + row).to(tl.int64)
    scores += place * vocab_size
    ids += place * vocab_size
    maxima += place * groups
    n = vocab_size
    if tl.load(errors + row) != 0:
        n = 0
    if (n > 0) & (largest(scores, n, BLOCK) == IMPOSSIBLE):
        tl.store(errors + row, NOTHING_LEFT)
        n = 0
    if n > 0:
        listed = tl.full([], 0, tl.int1)
        take_best = tl.load(settled + place)
        for i in range(tl.load(first_ops + row), tl.load(last_ops + row)):
            op = tl.load(ops + row * width + i)
            arg = tl.load(args + row * width + i)
            if take_best == 0:
                if op == TAKE_BEST:
                    take_best = take_best + 1
                elif op == DIVIDE:
                    divide(scores, n, arg, BLOCK)
                else:
                    n = narrow(scores, ids, maxima, n, listed, op, arg, vocab_size, BLOCK)
                    listed = tl.full([], 1, tl.int1)
        best = largest(scores, n, BLOCK)
        if take_best != 0:
            token = first_best(scores, ids, n, listed, best, BLOCK)
        else:
            key = tl.load(draw_keys + row).to(tl.uint64, bitcast=True)
            token = draw(scores, ids, n, listed, best, key, BLOCK)
        tl.store(tokens + row, token)
        if tl.load(reported + row) != 0:
            own = score_of(scores, ids, n, listed, token, BLOCK)
            log_sum = best.to(tl.float64) + tl.log(mass_from(scores, n, IMPOSSIBLE, best, False, BLOCK))
            tl.store(logprobs + row, (own.to(tl.float64) - log_sum).to(tl.float32))
            tl.store(ranks + row, 1 + count_above(scores, n, own, BLOCK))
