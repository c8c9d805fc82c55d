"""Causal attention over the paged cache: kernels of one family, in which a row's bits are the same whichever has it.

Prompts in pieces (several tokens a sequence) go through `prompt_kernel` in the manner of FlashAttention 2: a program
has a tile of rows (tokens and the query heads of one KV head) and walks over the keys that they see. Sequences with one
token go through `decode_kernel`, whose programs each take some splits of one sequence's keys, and `combine_kernel`,
which merges those in the order in which `prompt_kernel` does. See online_softmax.py for what makes that exact.
"""

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels import device
from trivet.runtime.cuda.kernels.attention_tiles import SPLIT, tiles_for
from trivet.runtime.cuda.kernels.online_softmax import (
    LOG2_E,
    LOWEST,
    attend_rows,
    attend_tiles,
    empty_state,
    merge,
    normalized,
)


class Batch(Protocol):
    """What attention takes of a step's inputs; int32 tensors on the device (see engine/plan.py)."""

    query_starts: torch.Tensor
    """[S + 1]"""
    context_lens: torch.Tensor
    """[S]; a sequence of 0 is padding."""
    block_tables: torch.Tensor
    """[S, B]; entries past a sequence's context are not read."""
    max_context_len: int
    """At least the greatest of `context_lens`; the launches depend on it, results do not."""


@triton.jit
def load_queries(q, row, tokens, head, heads, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                 TILE_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr):  # fmt: skip
    """Tokens row, row + 1, ..., and of each the heads head, head + 1, ...: [ROWS, COLUMNS], and where each row is, its
    token, its head, and whether there is one."""
    r, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    token, of_tile = r // TILE_HEADS, r % TILE_HEADS
    valid = (token < tokens) & (of_tile < heads)
    at = (row + token).to(tl.int64)[:, None] * stride + (head + of_tile)[:, None] * HEAD_DIM + columns[None, :]
    inside = valid[:, None] & (columns < HEAD_DIM)[None, :]
    return tl.load(q + at, mask=inside, other=0.0), token, head + of_tile, valid


@triton.jit
def store_rows(y, values, row, token, head, valid, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr):
    columns = tl.arange(0, values.shape[1])
    at = ((row + token).to(tl.int64) * HEADS + head)[:, None] * HEAD_DIM + columns[None, :]
    tl.store(y + at, values.to(y.dtype.element_ty), mask=valid[:, None] & (columns < HEAD_DIM)[None, :])


@triton.jit(do_not_specialize=["sequences", "table_stride"])
def prompt_kernel(
    q, k_cache, v_cache, y, sinks, query_starts, context_lens, block_tables, sequences, q_stride, table_stride, inner,
    factor,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE_HEADS: tl.constexpr,
    TOKENS: tl.constexpr, SPLIT: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
    FLAT: tl.constexpr,
):  # fmt: skip
    """Grid: (T // TOKENS + S, KV_HEADS * tiles of TILE_HEADS heads). Sequences with one token are left alone."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    HEAD_TILES: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    # The tiles of sequence s are numbered from query_starts[s] // TOKENS + s, which leaves room for all of them. The
    # last tiles of a prompt see most keys: they come first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    s, above = 0, sequences
    while above - s > 1:
        middle = (s + above) // 2
        if tl.load(query_starts + middle) // TOKENS + middle <= tile:
            s = middle
        else:
            above = middle
    start = tl.load(query_starts + s)
    count = tl.load(query_starts + s + 1) - start
    skipped = (tile - (start // TOKENS + s)) * TOKENS
    if (skipped >= count) | (count == 1):
        return
    kv_head, head_tile = tl.program_id(1) // HEAD_TILES, tl.program_id(1) % HEAD_TILES
    head = kv_head * GROUP + head_tile * TILE_HEADS
    row = start + skipped
    tokens = tl.minimum(count - skipped, TOKENS)
    rows, token, heads, valid = load_queries(
        q, row, tokens, head, GROUP - head_tile * TILE_HEADS, q_stride, ROWS, COLUMNS, TILE_HEADS, HEAD_DIM
    )
    first = tl.load(context_lens + s) - count + skipped
    last = first + tokens - 1
    positions = tl.where(valid, first + token, -1)
    top, total, values = attend_rows(
        rows, positions, first, last, k_cache + kv_head * HEAD_DIM, v_cache + kv_head * HEAD_DIM,
        block_tables + s * table_stride, inner, factor, SOFTCAP, WINDOW, HEAD_DIM, KV_HEADS * HEAD_DIM, BLOCK_SIZE,
        SPLIT, KEYS, STAGES, FLAT,
    )  # fmt: skip
    values = normalized(top, total, values, factor, sinks, heads, valid)
    store_rows(y, values, row, token, heads, valid, HEADS, HEAD_DIM)


@triton.jit
def splits_of(context, WINDOW: tl.constexpr, SPLIT: tl.constexpr):
    """The first split that the last token of `context` tokens sees, and how many there are."""
    first = 0
    if WINDOW:
        first = tl.maximum(context - WINDOW, 0) // SPLIT
    return first, tl.cdiv(context, SPLIT) - first


@triton.jit
def lanes_of(splits, lanes, share, SHARE: tl.constexpr):
    """Over how many of `lanes` programs a sequence's splits are spread: so that none has more than SHARE of them, and
    over `share` programs where others would be idle."""
    return tl.minimum(tl.maximum(tl.cdiv(splits, SHARE), tl.minimum(splits, share)), lanes)


@triton.jit
def place_of(
    s, query_starts, context_lens, places, lanes, share, WINDOW: tl.constexpr, SPLIT: tl.constexpr, SHARE: tl.constexpr
):
    """Where the states of the splits of sequence s, which has several lanes, lie among `places`; -1 where there is no
    place for them."""
    place = 0
    for begin in tl.range(0, s, 128):
        others = begin + tl.arange(0, 128)
        _, count = splits_of(tl.load(context_lens + others, mask=others < s, other=0), WINDOW, SPLIT)
        place += tl.sum(tl.where(lanes_of(count, lanes, share, SHARE) > 1, count, 0), 0)
    _, count = splits_of(tl.load(context_lens + s), WINDOW, SPLIT)
    return tl.where(place + count <= places, place, -1)


@triton.jit(do_not_specialize=["table_stride", "places", "share"])
def decode_kernel(
    q, k_cache, v_cache, y, sinks, states, sums, query_starts, context_lens, block_tables, places, share, q_stride,
    table_stride, inner, factor,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE_HEADS: tl.constexpr,
    SPLIT: tl.constexpr, SHARE: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
    FLAT: tl.constexpr, TURNED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid: (KV_HEADS * tiles of TILE_HEADS heads, S, lanes). Each lane of a sequence takes splits that follow each
    other, as many as the others, and leaves their states; a lane that is the only one, or for whose states there is no
    place, finishes."""
    device.await_previous(EARLY)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    HEAD_TILES: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    s, lane = tl.program_id(1), tl.program_id(2)
    row, next_row, context = tl.load(query_starts + s), tl.load(query_starts + s + 1), tl.load(context_lens + s)
    first_split, count = splits_of(context, WINDOW, SPLIT)
    lanes = tl.maximum(lanes_of(count, tl.num_programs(2), share, SHARE), 1)
    if (next_row - row != 1) | (lane >= lanes):
        return
    kv_head, head_tile = tl.program_id(0) // HEAD_TILES, tl.program_id(0) % HEAD_TILES
    head = kv_head * GROUP + head_tile * TILE_HEADS
    rows, token, heads, valid = load_queries(
        q, row, 1, head, GROUP - head_tile * TILE_HEADS, q_stride, ROWS, COLUMNS, TILE_HEADS, HEAD_DIM
    )
    place = -1
    if lanes > 1:
        place = place_of(s, query_starts, context_lens, places, tl.num_programs(2), share, WINDOW, SPLIT, SHARE)
    if (place < 0) & (lane > 0):
        return
    lanes = tl.where(place < 0, 1, lanes)
    positions = tl.where(valid, context - 1, -1)
    low = 0
    if WINDOW:
        low = tl.maximum(context - WINDOW, 0)
    split, past = first_split + count * lane // lanes, first_split + count * (lane + 1) // lanes
    top, total, values = empty_state(ROWS, COLUMNS, TURNED)
    if TURNED:
        rows = tl.trans(rows)
    step = 1
    if FLAT:
        step = tl.where(place < 0, past - split, 1)
    while split < past:
        begin, end = split * SPLIT, tl.minimum((split + step) * SPLIT, context)
        part_top, part_total, part_values = empty_state(ROWS, COLUMNS, TURNED)
        part_top, part_total, part_values, top, total, values = attend_tiles(
            rows, positions, part_top, part_total, part_values, top, total, values, k_cache + kv_head * HEAD_DIM,
            v_cache + kv_head * HEAD_DIM, block_tables + s * table_stride, tl.maximum(begin, low // KEYS * KEYS), end,
            low, context, inner, factor, True, SOFTCAP, WINDOW, HEAD_DIM, KV_HEADS * HEAD_DIM, BLOCK_SIZE, SPLIT, KEYS,
            STAGES, FLAT, TURNED,
        )  # fmt: skip
        top, total, values = merge(top, total, values, part_top, part_total, part_values, factor, TURNED)
        if place >= 0:
            at = (place + split - first_split).to(tl.int64) * HEADS + heads
            tl.store(sums + 2 * at, top, mask=valid)
            tl.store(sums + 2 * at + 1, total, mask=valid)
            columns = tl.arange(0, COLUMNS)
            state = tl.trans(values) if TURNED else values
            tl.store(states + at[:, None] * COLUMNS + columns[None, :], state, mask=valid[:, None])
            top, total, values = empty_state(ROWS, COLUMNS, TURNED)
        split += step
    if place < 0:
        state = tl.trans(values) if TURNED else values
        state = normalized(top, total, state, factor, sinks, heads, valid)
        store_rows(y, state, row, token, heads, valid, HEADS, HEAD_DIM)


@triton.jit(do_not_specialize=["places", "lanes", "share"])
def combine_kernel(
    y, sinks, states, sums, query_starts, context_lens, places, lanes, share, factor,
    WINDOW: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr, SHARE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Grid: (S, tiles of ROWS heads)."""
    device.await_previous(EARLY)
    s = tl.program_id(0)
    row, next_row, context = tl.load(query_starts + s), tl.load(query_starts + s + 1), tl.load(context_lens + s)
    _, count = splits_of(context, WINDOW, SPLIT)
    if (next_row - row != 1) | (lanes_of(count, lanes, share, SHARE) <= 1):
        return
    place = place_of(s, query_starts, context_lens, places, lanes, share, WINDOW, SPLIT, SHARE)
    if place < 0:
        return
    heads = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    valid = heads < HEADS
    columns = tl.arange(0, COLUMNS)
    top, total, values = empty_state(ROWS, COLUMNS)
    for i in tl.range(0, count, num_stages=3):
        at = (place + i).to(tl.int64) * HEADS + heads
        top, total, values = merge(
            top, total, values,
            tl.load(sums + 2 * at, mask=valid, other=LOWEST), tl.load(sums + 2 * at + 1, mask=valid, other=0.0),
            tl.load(states + at[:, None] * COLUMNS + columns[None, :], mask=valid[:, None], other=0.0), factor,
        )  # fmt: skip
    values = normalized(top, total, values, factor, sinks, heads, valid)
    store_rows(y, values, row, tl.zeros_like(heads), heads, valid, HEADS, HEAD_DIM)


PLACES = 4096
"""States that decode leaves at most, for each head: 64 MiB with 32 heads of 128 columns. Sequences past that are each
taken by one program."""

LEAST_ROWS = 16
"""Of what is the right operand of a product: for fewer, Triton takes mma.sync, with a few other bits."""

WAVES = 4
"""Programs, in times what fills the chip, from which on they are `many` (attention_tiles.py): measured with 2 and 8."""

PROGRAMS = 512
"""Programs of decode that are wanted at least: about four for each of the 132 multiprocessors of an H100."""

MOST_PROGRAMS = 8192
"""Of decode, where sequences are many: most of those that long contexts could use leave at once."""

SHARE = 4
"""Splits that a program takes at most, as far as there may be more programs: what the last ones of a step have to do
beside the others' rest."""


def attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: Batch,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None = None,
    decode: bool,
) -> torch.Tensor:
    """Attends from each row of q [T, heads * head_dim] to the keys up to its own, which the cache has already.

    Caches are [blocks, block_size, kv_heads, head_dim], contiguous, in bfloat16, float16, float32 or float8_e4m3fn.
    `window` > 0: a row sees so many positions, its own among them. `softcap` > 0: scores are softcap * tanh(score /
    softcap). `sinks` [heads], float32, are logits that the denominator has besides. `decode`: no sequence has more than
    one token. Rows that belong to no sequence are left undefined, those of sequences without context are 0.
    Returns [T, heads * head_dim] in q's type.
    """
    group = heads // kv_heads
    sequences, table_stride = batch.block_tables.shape[0], batch.block_tables.stride(0)
    tiles = tiles_for(head_dim, q.element_size(), k_cache.element_size(), device.capability(q.device))
    log2_e = LOG2_E.value
    # What scores are multiplied by: before the tanh, as exponents of e^2x in powers of two, and then in powers of two.
    inner, factor = (2 * log2_e * scale / softcap, softcap * log2_e) if softcap else (1.0, scale * log2_e)
    y = torch.empty((q.shape[0], heads * head_dim), dtype=q.dtype, device=q.device)
    shape = {
        "SOFTCAP": softcap > 0, "WINDOW": window, "HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim,
        "COLUMNS": tiles.columns, "BLOCK_SIZE": k_cache.shape[1], "SPLIT": SPLIT, "KEYS": tiles.keys,
    }  # fmt: skip
    if not decode:
        rows, tile_heads = tiles.prompt.rows, min(group, tiles.prompt.rows)
        tokens = rows // tile_heads
        prompt_kernel[(q.shape[0] // tokens + sequences, kv_heads * triton.cdiv(group, tile_heads))](
            q, k_cache, v_cache, y, sinks, batch.query_starts, batch.context_lens, batch.block_tables, sequences,
            q.stride(0), table_stride, inner, factor, **shape, ROWS=rows, TILE_HEADS=tile_heads, TOKENS=tokens,
            STAGES=tiles.prompt.stages, FLAT=tiles.prompt.flat, num_warps=tiles.prompt.warps,
        )  # fmt: skip
    splits = triton.cdiv(batch.max_context_len, SPLIT)
    wave = 2 * device.multiprocessors(q.device)
    many = sequences * kv_heads >= WAVES * wave and k_cache.dtype == q.dtype
    launch = tiles.many if many else tiles.decode
    rows = min(launch.rows, max(LEAST_ROWS, triton.next_power_of_2(group))) if launch.turned else launch.rows
    tile_heads = min(group, rows)
    programs = kv_heads * triton.cdiv(group, tile_heads)
    # Where one lane each just fills the chip, more would only leave states: measured, 32 sequences take 20 % less so.
    share = 1 if 0.75 * wave < sequences * programs <= wave else triton.cdiv(PROGRAMS, sequences * programs)
    lanes = min(triton.cdiv(splits, SHARE), triton.cdiv(MOST_PROGRAMS, sequences * programs))
    lanes = min(splits, max(lanes, share))
    places = min(sequences * splits, PLACES) if lanes > 1 else 0
    states = torch.empty((places, heads, tiles.columns), dtype=torch.float32, device=q.device)
    sums = torch.empty((places, heads, 2), dtype=torch.float32, device=q.device)
    decode_kernel[(programs, sequences, lanes)](
        q, k_cache, v_cache, y, sinks, states, sums, batch.query_starts, batch.context_lens, batch.block_tables, places,
        share, q.stride(0), table_stride, inner, factor, **shape, SHARE=SHARE, ROWS=rows, TILE_HEADS=tile_heads,
        STAGES=launch.stages, FLAT=launch.flat, TURNED=launch.turned, num_warps=launch.warps, **device.early(q.device),
    )  # fmt: skip
    if places:
        combine_rows = min(8, triton.next_power_of_2(heads))
        combine_kernel[(sequences, triton.cdiv(heads, combine_rows))](
            y, sinks, states, sums, batch.query_starts, batch.context_lens, places, lanes, share, factor, WINDOW=window,
            HEADS=heads, HEAD_DIM=head_dim, COLUMNS=tiles.columns, ROWS=combine_rows, SPLIT=SPLIT, SHARE=SHARE,
            num_warps=4, **device.early(q.device),
        )  # fmt: skip
    return y
