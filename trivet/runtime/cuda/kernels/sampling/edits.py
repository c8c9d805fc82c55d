"""Changes of logits before candidates are chosen: bias and masks, penalties, watermark, temperature.

What concerns a whole row is done by `edit_rows`; `edit_tokens` and `edit_seen` then do again the few tokens of which
the row says something (`native/sampling/edits.h`), and those that came before, with all that is done to them, in the
row's own order. How often a token came is one number: its occurrences, and bits for what is to be known beside.
"""

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.sampling.arithmetic import (
    IMPOSSIBLE,
    NO_TOKEN,
    bounded,
    exp_nonpositive,
    permuted,
)

DIVIDE = tl.constexpr(0)
PENALTIES = tl.constexpr(2)
TGI_PENALTIES = tl.constexpr(3)
DRY = tl.constexpr(4)
WATERMARK = tl.constexpr(5)

BIASED = tl.constexpr(1)
FORBIDDEN = tl.constexpr(2)
REPEATS = tl.constexpr(4)

EDIT_WORDS = tl.constexpr(5)

SEEN = tl.constexpr(1 << 30)
LISTED = tl.constexpr(-(1 << 31))

BONUS = tl.constexpr(2.0)


@triton.jit(do_not_specialize=["width"])
def edit_rows(
    logits,
    scores,
    places,  # [R] the row of `scores`, -1 for none
    only_allowed,  # [R] whether no token is possible but those of `edit_tokens`
    summed,  # [R] whether the sum of e^x is asked for
    first_ops,
    last_ops,  # [R] the range of a row's operations that is meant
    ops,
    args,  # [R, width]
    watermark_keys,  # [R]
    maxima,
    best_ids,
    sums,  # [R, chunks] of the unmodified logits: NaN where one is not finite; the first best; of e^(x - max), or 1
    vocab_size,
    width,
    favoured,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,  # else the scores are edited further
    BLOCK: tl.constexpr,
):
    row, chunk = tl.program_id(0), tl.program_id(1)
    ids = chunk * BLOCK + tl.arange(0, BLOCK)
    known = ids < vocab_size
    place = tl.load(places + row).to(tl.int64)
    first, last = tl.load(first_ops + row), tl.load(last_ops + row)
    if FIRST:
        x = tl.load(logits + row.to(tl.int64) * vocab_size + ids, mask=known, other=IMPOSSIBLE)
        finite = tl.max((known & ~(tl.abs(x) < float("inf"))).to(tl.int32)) == 0
        best = tl.max(x)
        part = row * tl.num_programs(1) + chunk
        tl.store(maxima + part, tl.where(finite, best, float("nan")))
        tl.store(best_ids + part, tl.min(tl.where(x == best, ids, NO_TOKEN)))
        total = tl.full([], 1.0, tl.float64)
        if tl.load(summed + row) != 0:
            total = tl.sum(tl.where(known, exp_nonpositive(x - best), 0.0).to(tl.float64))
        tl.store(sums + part, total)
        if tl.load(only_allowed + row) != 0:
            x = tl.full([BLOCK], IMPOSSIBLE, tl.float32)
    else:
        x = tl.load(scores + place * vocab_size + ids, mask=known & (first < last), other=IMPOSSIBLE)
    for i in range(first, last):
        op = tl.load(ops + row * width + i)
        if op == DIVIDE:
            x = bounded(tl.div_rn(x, tl.load(args + row * width + i)))
        elif op == WATERMARK:
            key = tl.load(watermark_keys + row).to(tl.uint64, bitcast=True)
            bonus = tl.where(permuted(key, ids % vocab_size, vocab_size, BITS) < favoured, BONUS, 0.0)
            x = bounded(x + bonus)
    if FIRST:
        tl.store(scores + place * vocab_size + ids, x, mask=known & (place >= 0))
    else:
        tl.store(scores + place * vocab_size + ids, x, mask=known & (first < last))


@triton.jit
def count_tokens(
    histories,
    starts,  # [P + 1] of the P histories, one after the other
    silent,  # [P] how many of its first tokens count as seen only
    counts,  # [P, vocab_size]
    first,  # like `histories`: 1 for one of the places of each token
    vocab_size,
    BLOCK: tl.constexpr,
):
    p = tl.program_id(0)
    start = tl.load(starts + p)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = start + at < tl.load(starts + p + 1)
    token = tl.load(histories + start + at, mask=there, other=-1)
    there = there & (token >= 0) & (token < vocab_size)
    quiet = at < tl.load(silent + p)
    count = counts + p.to(tl.int64) * vocab_size + token
    before = tl.atomic_add(count, 1, mask=there & ~quiet)
    before = tl.where(quiet, tl.atomic_or(count, SEEN, mask=there & quiet), before)
    tl.store(first + start + at, (there & ((before & ~LISTED) == 0)).to(tl.int8), mask=there)


@triton.jit(do_not_specialize=["count"])
def mark_tokens(edits, counted, counts, count, vocab_size, BLOCK: tl.constexpr):
    """Tells `edit_seen` which tokens `edit_tokens` does. `counted` [R]: the row of `counts`, -1 for none."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(edits + at * EDIT_WORDS, mask=at < count, other=0)
    token = tl.load(edits + at * EDIT_WORDS + 1, mask=at < count, other=0)
    p = tl.load(counted + row)
    tl.atomic_or(counts + p.to(tl.int64) * vocab_size + token, LISTED, mask=(at < count) & (p >= 0))


@triton.jit
def edited(
    x,
    token,
    count,
    window,  # the count of PENALTIES
    flags,
    dry,
    row,
    first,
    last,
    ops,
    args,
    penalties,  # [R, 4]: repetition, frequency, presence; length of the history
    watermark_keys,
    vocab_size,
    width,
    favoured,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,
):
    """What the operations first..last - 1 make of the scores of tokens, each in its row. Unless FIRST, the scores are
    those that `edit_rows` has left, with the watermark."""
    repetition = tl.load(penalties + row * 4)
    frequency = tl.load(penalties + row * 4 + 1)
    presence = tl.load(penalties + row * 4 + 2)
    length = tl.load(penalties + row * 4 + 3)
    key = tl.load(watermark_keys + row).to(tl.uint64, bitcast=True)
    in_window, in_history = (window & ~LISTED) != 0, (count & ~LISTED) != 0
    times = (window & (SEEN - 1)).to(tl.float32)
    for step in range(tl.max(last - first)):
        i = first + step
        op = tl.load(ops + row * width + i, mask=i < last, other=-1)
        arg = tl.load(args + row * width + i, mask=i < last, other=1.0)
        divided = bounded(tl.div_rn(x, arg))
        less, more = tl.div_rn(x, repetition), x * repetition
        plain = bounded(tl.where(x > 0, less, more))
        plain = tl.where(times > 0, bounded(plain - (times * frequency + presence)), plain)
        tgi = bounded(tl.where(x < 0, more, less))
        tgi = bounded(tgi - tl.div_rn(frequency * (count & (SEEN - 1)).to(tl.float32), length))
        y = tl.where(op == DIVIDE, divided, x)
        if FIRST:
            marked = bounded(x + tl.where(permuted(key, token, vocab_size, BITS) < favoured, BONUS, 0.0))
            y = tl.where(op == WATERMARK, marked, y)
        y = tl.where((op == PENALTIES) & in_window, plain, y)
        y = tl.where((op == TGI_PENALTIES) & in_history, tgi, y)
        y = tl.where((op == DRY) & ((flags & REPEATS) != 0), bounded(x - dry), y)
        x = tl.where(x == IMPOSSIBLE, x, y)
    return x


@triton.jit(do_not_specialize=["count", "width"])
def edit_tokens(
    edits,  # [N, EDIT_WORDS]
    logits,
    scores,
    places,
    counted,
    windows,
    counts,
    first_ops,
    last_ops,
    ops,
    args,
    penalties,
    watermark_keys,
    count,
    vocab_size,
    width,
    favoured,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    edit = edits + at * EDIT_WORDS
    row = tl.load(edit, mask=at < count, other=0)
    token = tl.load(edit + 1, mask=at < count, other=0)
    flags = tl.load(edit + 2, mask=at < count, other=0)
    dry = tl.load(edit + 4, mask=at < count, other=0).to(tl.float32, bitcast=True)
    p = tl.load(counted + row)
    times = tl.load(counts + p.to(tl.int64) * vocab_size + token, mask=(at < count) & (p >= 0), other=0)
    w = tl.load(windows + row).to(tl.int64)
    window = tl.load(counts + w * vocab_size + token, mask=(at < count) & (w >= 0), other=0)
    place = tl.load(places + row).to(tl.int64)
    first, last = tl.load(first_ops + row), tl.load(last_ops + row)
    meant = (at < count) & (place >= 0)
    if FIRST:
        bias = tl.load(edit + 3, mask=at < count, other=0).to(tl.float32, bitcast=True)
        x = tl.load(logits + row.to(tl.int64) * vocab_size + token)
        x = tl.where((flags & BIASED) != 0, bounded(x + bias), x)
        x = tl.where((flags & FORBIDDEN) != 0, IMPOSSIBLE, x)
    else:
        meant = meant & (first < last)
        x = tl.load(scores + place * vocab_size + token, mask=meant, other=IMPOSSIBLE)
    x = edited(
        x, token, times, window, flags, dry, row, first, last, ops, args, penalties, watermark_keys, vocab_size,
        width, favoured, BITS, FIRST,
    )  # fmt: skip
    tl.store(scores + place * vocab_size + token, x, mask=meant)


@triton.jit(do_not_specialize=["width"])
def edit_seen(
    histories,
    starts,
    first_places,
    counted_rows,  # [P]
    counted,
    windows,  # [R]
    counts,
    logits,
    scores,
    places,
    only_allowed,
    first_ops,
    last_ops,
    ops,
    args,
    penalties,
    watermark_keys,
    vocab_size,
    width,
    favoured,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p = tl.program_id(0)
    row = tl.full([BLOCK], 0, tl.int32) + tl.load(counted_rows + p)
    at = tl.load(starts + p) + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < tl.load(starts + p + 1)
    token = tl.load(histories + at, mask=there, other=-1)
    there = there & (token >= 0) & (token < vocab_size)
    token = tl.where(there, token, 0)  # the watermark's permutation is one of the vocabulary
    meant = there & (tl.load(first_places + at, mask=there, other=0) != 0)
    times = tl.load(counts + p.to(tl.int64) * vocab_size + token, mask=there, other=0)
    # LISTED is the sign; what is a window only comes with the whole history.
    meant = meant & (times >= 0) & (tl.load(counted + row) == p)
    window = tl.load(counts + tl.load(windows + row).to(tl.int64) * vocab_size + token, mask=meant, other=0)
    place = tl.load(places + row).to(tl.int64)
    first, last = tl.load(first_ops + row), tl.load(last_ops + row)
    if FIRST:
        meant = meant & (tl.load(only_allowed + row) == 0)
        x = tl.load(logits + row.to(tl.int64) * vocab_size + token, mask=meant, other=IMPOSSIBLE)
    else:
        meant = meant & (first < last)
        x = tl.load(scores + place * vocab_size + token, mask=meant, other=IMPOSSIBLE)
    x = edited(
        x, token, times, window, times * 0, x * 0, row, first, last, ops, args, penalties, watermark_keys, vocab_size,
        width, favoured, BITS, FIRST,
    )  # fmt: skip
    tl.store(scores + place * vocab_size + token, x, mask=meant)
