"""The candidates of one row, worked on by one program: lists of scores and ids, in the order of the ids.

At first the list is the row of scores itself and an id is a place in it (`listed` is 0). `keep` shortens a list in
place. The functions are those of `native/sampling/{shortlist,stages,selectors}.cpp`.
"""

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.sampling.arithmetic import (
    IMPOSSIBLE,
    NO_TOKEN,
    bounded,
    exp_nonpositive,
    float_of,
    ordered,
    reaches,
    uniform,
)

GROUP = tl.constexpr(64)
"""Scores that are passed over together where the largest is too small."""


@triton.jit
def ids_at(ids, at, mask, listed):
    return tl.where(listed, tl.load(ids + at, mask=mask & listed, other=0), at)


@triton.jit
def largest(scores, n, BLOCK: tl.constexpr):
    best = tl.full([BLOCK], IMPOSSIBLE, tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(scores + at, mask=at < n, other=IMPOSSIBLE))
    return tl.max(best)


@triton.jit
def largest_of_groups(scores, n, maxima, BLOCK: tl.constexpr):
    """Writes the largest of each GROUP to `maxima`; returns how many."""
    groups = tl.cdiv(n, GROUP)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        group = start // GROUP + tl.arange(0, BLOCK // GROUP)
        tl.store(maxima + group, tl.max(tl.reshape(x, [BLOCK // GROUP, GROUP]), 1), mask=group < groups)
    tl.debug_barrier()
    return groups


@triton.jit
def count_above(scores, n, limit, BLOCK: tl.constexpr):
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        count += (x > limit).to(tl.int32)
    return tl.sum(count)


@triton.jit
def mass_from(scores, n, least, best, counted, BLOCK: tl.constexpr):
    """The sum, in float64, of e^(x - best) over those that are no less than `least`; where `counted`, their number."""
    mass = tl.zeros([BLOCK], tl.float64)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        weight = tl.where(counted, 1.0, exp_nonpositive(x - best))
        mass += tl.where((x >= least) & (at < n), weight, 0.0).to(tl.float64)
    return tl.sum(mass)


@triton.jit
def enough(mass, total, needed, counted):
    """Whether so many, or so much of the total, is what is needed."""
    return tl.where(counted, mass >= needed, reaches(mass, total, needed))


@triton.jit
def last_needed(scores, n, least, best, total, needed, counted, BLOCK: tl.constexpr):
    """The score of the last of the best ones that are enough, and how many of that score are needed.

    All lie between `least` and `best`, and are enough.

    By bisection over the floats, as sums over all from a score on fall while it rises.
    """
    low, high = ordered(least), ordered(best)
    while low < high:
        middle = (low + high + 1) >> 1
        if enough(mass_from(scores, n, float_of(middle), best, counted, BLOCK), total, needed, counted):
            low = middle
        else:
            high = middle - 1
    border = float_of(low)
    above = mass_from(scores, n, float_of(low + 1), best, counted, BLOCK)
    weight = tl.where(counted, 1.0, exp_nonpositive(border - best)).to(tl.float64)
    fewest, most = tl.full([], 1, tl.int32), tl.full([], 0, tl.int32) + n
    while fewest < most:
        ties = (fewest + most) >> 1
        if enough(above + ties.to(tl.float64) * weight, total, needed, counted):
            most = ties
        else:
            fewest = ties + 1
    return border, fewest


@triton.jit
def keep(scores, ids, n, listed, border, ties, BLOCK: tl.constexpr):
    """Keeps those above `border` and the first `ties` that equal it; returns how many."""
    kept = tl.full([], 0, tl.int32)
    tied = tl.full([], 0, tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        token = ids_at(ids, at, at < n, listed)
        equal = ((x == border) & (at < n)).to(tl.int32)
        chosen = ((x > border) | ((equal != 0) & (tied + tl.cumsum(equal) <= ties))).to(tl.int32)
        place = kept + tl.cumsum(chosen) - 1
        tl.debug_barrier()  # all have read before one writes
        tl.store(scores + place, x, mask=chosen != 0)
        tl.store(ids + place, token, mask=chosen != 0)
        tl.debug_barrier()
        kept += tl.sum(chosen)
        tied += tl.sum(equal)
    return kept


@triton.jit
def divide(scores, n, temperature, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        tl.store(scores + at, bounded(tl.div_rn(x, temperature)), mask=at < n)
    tl.debug_barrier()


@triton.jit
def first_best(scores, ids, n, listed, best, BLOCK: tl.constexpr):
    token = tl.full([BLOCK], NO_TOKEN, tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        token = tl.minimum(token, tl.where((x == best) & (at < n), ids_at(ids, at, at < n, listed), NO_TOKEN))
    return tl.min(token)


@triton.jit
def draw(scores, ids, n, listed, best, key, BLOCK: tl.constexpr):
    """A race of exponential clocks: the least -ln(u) / weight wins."""
    time = tl.full([], 1e300, tl.float64)
    winner = tl.full([], NO_TOKEN, tl.int32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        token = ids_at(ids, at, at < n, listed)
        weight = exp_nonpositive(x - best).to(tl.float64)
        u = uniform(key, token)
        # -ln(u) >= 1 - u: saves nearly all logarithms.
        hopeful = (weight > 0) & (1 - u <= time * weight)
        if tl.max(hopeful.to(tl.int32)) > 0:
            times = tl.where(hopeful, -tl.log(u) / tl.where(hopeful, weight, 1.0), float("inf"))
            least = tl.min(times)
            first = tl.min(tl.where(times == least, token, NO_TOKEN))
            if (least < time) | ((least == time) & (first < winner)):
                time = least
                winner = first
    return winner


@triton.jit
def score_of(scores, ids, n, listed, wanted, BLOCK: tl.constexpr):
    found = tl.full([BLOCK], IMPOSSIBLE, tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(scores + at, mask=at < n, other=IMPOSSIBLE)
        found = tl.maximum(found, tl.where(ids_at(ids, at, at < n, listed) == wanted, x, IMPOSSIBLE))
    return tl.max(found)
