"""Attention of a tile of query rows to keys and values in the paged cache, with a running softmax in float32.

Order of the float operations, which makes a row's result independent of the rows beside it, of how a prompt was cut
and of the kernel that computes it: positions are cut into splits of `SPLIT` and those into tiles of `KEYS`, counted
from position 0 of the sequence. Within a split a running softmax takes the tiles in ascending order; the states of the
splits are merged in ascending order. What a row does not see has weight 0, which changes no bit. Wherever a compiler
could contract a product and a sum in more than one way, `fma` says how. Tiles of rows differ between kernels in their
height, and in which operand of their products is the left one. No element of a matrix product depends on either as long
as all use the same instructions, which the tests compare; and a tile's weights are added as integers.

A state is, for each row, the maximum of the scores (before `factor`, which turns them into powers of two), the sum of
the weights and the weighted sum of values.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)
"""Stands for -infinity where differences are taken: far below any score, yet its difference with itself is 0."""

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def empty_state(ROWS: tl.constexpr, COLUMNS: tl.constexpr, TURNED: tl.constexpr = False):
    top = tl.full([ROWS], LOWEST, tl.float32)
    values = tl.zeros([COLUMNS, ROWS] if TURNED else [ROWS, COLUMNS], tl.float32)
    return top, tl.zeros([ROWS], tl.float32), values


@triton.jit
def beside(x, TURNED: tl.constexpr):
    """A number of each row, to go with all that is the row's in a tile."""
    return x[None, :] if TURNED else x[:, None]


@triton.jit
def merge(top_a, total_a, values_a, top_b, total_b, values_b, factor, TURNED: tl.constexpr = False):
    """The state of what both saw. The empty state on either side changes nothing."""
    top = tl.maximum(top_a, top_b)
    a, b = tl.exp2((top_a - top) * factor), tl.exp2((top_b - top) * factor)
    values = tl.fma(values_a, beside(a, TURNED), values_b * beside(b, TURNED))
    return top, tl.fma(total_a, a, total_b * b), values


@triton.jit
def summed(weights, AXIS: tl.constexpr):
    """Sums of up to 128 weights, each from 0 to 1, with the same bits in any order: of integers, in units of 2^-23."""
    ONE: tl.constexpr = 0x3F800000
    steps = (weights + 1.0).to(tl.int32, bitcast=True) - ONE
    return tl.sum(steps, AXIS).to(tl.float32) * (1.0 / (1 << 23))


@triton.jit
def normalized(top, total, values, factor, sinks, heads, valid):
    """The weighted mean of the values; 0 for a row that saw nothing. `sinks`, where not None, are logits of heads that
    the denominator has besides."""
    if sinks is None:
        share = 1.0 / tl.where(total == 0.0, 1.0, total)
    else:
        score, sink = top * factor, tl.load(sinks + heads, mask=valid, other=0.0).to(tl.float32) * LOG2_E
        highest = tl.maximum(score, sink)
        scaled = tl.exp2(score - highest)
        share = scaled / tl.fma(total, scaled, tl.exp2(sink - highest))
    return values * share[:, None]


@triton.jit
def attend_tiles(
    q,
    positions,
    top,
    total,
    values,
    merged_top,
    merged_total,
    merged_values,
    k_cache,
    v_cache,
    table,
    begin,
    end,
    low,
    seen,
    inner,
    factor,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    FLAT: tl.constexpr,
    TURNED: tl.constexpr = False,
):
    """Adds the tiles of keys from `begin`, a multiple of KEYS, up to `end` to the state of the split at hand, which is
    merged with those before it when the next begins.

    One loop over all splits, so that the next tiles are always on their way; without `FLAT` only over tiles of one
    split, whose state is left to be merged. `positions`: of the rows; -1 sees nothing. `MASKED`: some row does not see
    some key; only keys in [low, seen) are then read. Else the masks, which cost as much as the exponentials, are left
    out.

    `TURNED`: q is [COLUMNS, ROWS], and so are scores [KEYS, ROWS] and values.
    """
    ROWS: tl.constexpr = q.shape[1] if TURNED else q.shape[0]
    COLUMNS: tl.constexpr = q.shape[0] if TURNED else q.shape[1]
    AXIS: tl.constexpr = 0 if TURNED else 1
    columns = tl.arange(0, COLUMNS)
    for start in tl.range(begin, end, KEYS, num_stages=STAGES):
        keys = start + tl.arange(0, KEYS)
        # Others are read in place of keys that no row sees, as masks of loads take registers and time.
        read = tl.minimum(tl.maximum(keys, low), seen - 1) if MASKED else keys
        block = tl.load(table + read // BLOCK_SIZE)
        # A tile may span several blocks: each of its keys has an address of its own. Rows are contiguous, so that
        # threads still load 16 bytes each.
        token = block.to(tl.int64) * BLOCK_SIZE + read % BLOCK_SIZE
        at = token[:, None] * TOKEN_STRIDE + columns[None, :]
        if COLUMNS > HEAD_DIM:
            inside = (columns < HEAD_DIM)[None, :]
            k = tl.load(k_cache + at, mask=inside, other=0.0)
            v = tl.load(v_cache + at, mask=inside, other=0.0)
        else:
            k = tl.load(k_cache + at)
            v = tl.load(v_cache + at)
        k, v = k.to(q.dtype), v.to(q.dtype)
        scores = tl.dot(k, q) if TURNED else tl.dot(q, tl.trans(k), input_precision="ieee")
        if SOFTCAP:
            # tanh x = 1 - 2 / (e^2x + 1), in powers of two; `factor` has the cap.
            scores = 1.0 - 2.0 / (tl.exp2(scores * inner) + 1.0)
        if MASKED:
            key, position = beside(keys, not TURNED), beside(positions, TURNED)
            visible = key <= position
            if WINDOW:
                visible &= key > position - WINDOW
            scores = tl.where(visible, scores, float("-inf"))
        # Here the last tile's product has come, too.
        if FLAT:  # noqa: SIM102 - of the two only this is known to the compiler
            if start % SPLIT == 0:
                merged_top, merged_total, merged_values = merge(
                    merged_top, merged_total, merged_values, top, total, values, factor, TURNED
                )
                top, total, values = empty_state(ROWS, COLUMNS, TURNED)
        next_top = tl.maximum(top, tl.max(scores, AXIS))
        weights = tl.exp2(tl.fma(scores, factor, beside(-next_top * factor, TURNED)))
        decay = tl.exp2((top - next_top) * factor)
        total = tl.fma(total, decay, summed(weights, AXIS))
        values *= beside(decay, TURNED)
        if TURNED:
            values = tl.dot(tl.trans(v), weights.to(q.dtype), values)
        else:
            values = tl.dot(weights.to(q.dtype), v, values, input_precision="ieee")
        top = next_top
    return top, total, values, merged_top, merged_total, merged_values


@triton.jit
def attend_piece(
    q,
    positions,
    top,
    total,
    values,
    k_cache,
    v_cache,
    table,
    begin,
    full_begin,
    full_end,
    end,
    low,
    seen,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    FLAT: tl.constexpr,
):
    """Adds the keys from `begin` up to `end` to a state. All rows see all of those in [full_begin, full_end)."""
    part_top, part_total, part_values = empty_state(q.shape[0], q.shape[1])
    if WINDOW:
        part_top, part_total, part_values, top, total, values = attend_tiles(
            q, positions, part_top, part_total, part_values, top, total, values, k_cache, v_cache, table,
            begin, full_begin, low, seen, inner, factor, True,
            SOFTCAP, WINDOW, HEAD_DIM, TOKEN_STRIDE, BLOCK_SIZE, SPLIT, KEYS, STAGES, FLAT,
        )  # fmt: skip
    part_top, part_total, part_values, top, total, values = attend_tiles(
        q, positions, part_top, part_total, part_values, top, total, values, k_cache, v_cache, table,
        full_begin, full_end, low, seen, inner, factor, False,
        SOFTCAP, WINDOW, HEAD_DIM, TOKEN_STRIDE, BLOCK_SIZE, SPLIT, KEYS, STAGES, FLAT,
    )  # fmt: skip
    part_top, part_total, part_values, top, total, values = attend_tiles(
        q, positions, part_top, part_total, part_values, top, total, values, k_cache, v_cache, table,
        full_end, end, low, seen, inner, factor, True,
        SOFTCAP, WINDOW, HEAD_DIM, TOKEN_STRIDE, BLOCK_SIZE, SPLIT, KEYS, STAGES, FLAT,
    )  # fmt: skip
    return merge(top, total, values, part_top, part_total, part_values, factor)


@triton.jit
def attend_rows(
    q,
    positions,
    first,
    last,
    k_cache,
    v_cache,
    table,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    FLAT: tl.constexpr,
):
    """The state of rows of queries at `positions`, which lie in first..last, after all keys."""
    top, total, values = empty_state(q.shape[0], q.shape[1])
    low, begin, full_begin, end = 0, 0, 0, last + 1
    if WINDOW:
        low = tl.maximum(first - WINDOW + 1, 0)
        begin = low // KEYS * KEYS
        full_begin = tl.minimum(tl.maximum(tl.cdiv(last - WINDOW + 1, KEYS) * KEYS, begin), end)
    full_end = tl.maximum((first + 1) // KEYS * KEYS, full_begin)
    if FLAT:
        top, total, values = attend_piece(
            q, positions, top, total, values, k_cache, v_cache, table, begin, full_begin, full_end, end, low, end,
            inner, factor, SOFTCAP, WINDOW, HEAD_DIM, TOKEN_STRIDE, BLOCK_SIZE, SPLIT, KEYS, STAGES, FLAT,
        )  # fmt: skip
    else:
        for split in tl.range(begin // SPLIT * SPLIT, end, SPLIT, num_stages=1):
            split_end = tl.minimum(split + SPLIT, end)
            full = tl.minimum(tl.maximum(full_begin, tl.maximum(split, begin)), split_end)
            top, total, values = attend_piece(
                q, positions, top, total, values, k_cache, v_cache, table, tl.maximum(split, begin), full,
                tl.minimum(tl.maximum(full_end, full), split_end), split_end, low, end,
                inner, factor, SOFTCAP, WINDOW, HEAD_DIM, TOKEN_STRIDE, BLOCK_SIZE, SPLIT, KEYS, STAGES, FLAT,
            )  # fmt: skip
    return top, total, values
