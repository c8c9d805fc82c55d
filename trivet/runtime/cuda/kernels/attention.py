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
from trivet.runtime.cuda.kernels.online_softmax import LOG2_E, LOWEST, attend_split, empty_state, merge, normalized


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
    begin = 0
    if WINDOW:
        begin = tl.maximum(first - WINDOW + 1, 0) // SPLIT
    top, total, values = empty_state(ROWS, COLUMNS)
    for split in tl.range(begin, last // SPLIT + 1, num_stages=1):
        split_top, split_total, split_values = attend_split(
            rows, positions, first, last, split, k_cache + kv_head * HEAD_DIM, v_cache + kv_head * HEAD_DIM,
            block_tables + s * table_stride, inner, factor, SOFTCAP, WINDOW, HEAD_DIM,
            KV_HEADS * HEAD_DIM, BLOCK_SIZE, SPLIT, KEYS, STAGES,
        )  # fmt: skip
        top, total, values = merge(top, total, values, split_top, split_total, split_values, factor)
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
def place_of(s, query_starts, context_lens, places, WINDOW: tl.constexpr, SPLIT: tl.constexpr):
    """Where the states of the splits of sequence s lie among `places`; -1 where they have none, because the sequence
    has one split or there are too many."""
    place = 0
    for begin in tl.range(0, s, 128):
        others = begin + tl.arange(0, 128)
        _, count = splits_of(tl.load(context_lens + others, mask=others < s, other=0), WINDOW, SPLIT)
        place += tl.sum(tl.where(count > 1, count, 0), 0)
    _, count = splits_of(tl.load(context_lens + s), WINDOW, SPLIT)
    return tl.where((count > 1) & (place + count <= places), place, -1)


@triton.jit(do_not_specialize=["table_stride", "places"])
def decode_kernel(
    q, k_cache, v_cache, y, sinks, states, sums, query_starts, context_lens, block_tables, places, q_stride,
    table_stride, inner, factor,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, TILE_HEADS: tl.constexpr,
    SPLIT: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: (S, KV_HEADS * tiles of TILE_HEADS heads, lanes). Lane i takes the splits i, i + lanes, ... of a sequence
    and leaves their states; where there is no place for them, lane 0 takes all and finishes."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    HEAD_TILES: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    s, lane = tl.program_id(0), tl.program_id(2)
    row = tl.load(query_starts + s)
    if tl.load(query_starts + s + 1) - row != 1:
        return
    context = tl.load(context_lens + s)
    first_split, count = splits_of(context, WINDOW, SPLIT)
    if lane >= tl.maximum(count, 1):
        return
    place = place_of(s, query_starts, context_lens, places, WINDOW, SPLIT)
    if (place < 0) & (lane > 0):
        return
    kv_head, head_tile = tl.program_id(1) // HEAD_TILES, tl.program_id(1) % HEAD_TILES
    head = kv_head * GROUP + head_tile * TILE_HEADS
    rows, token, heads, valid = load_queries(
        q, row, 1, head, GROUP - head_tile * TILE_HEADS, q_stride, ROWS, COLUMNS, TILE_HEADS, HEAD_DIM
    )
    last = context - 1
    positions = tl.where(valid, last, -1)
    top, total, values = empty_state(ROWS, COLUMNS)
    step = tl.where(place < 0, 1, tl.num_programs(2))
    for i in tl.range(lane, count, step, num_stages=1):
        split_top, split_total, split_values = attend_split(
            rows, positions, last, last, first_split + i, k_cache + kv_head * HEAD_DIM, v_cache + kv_head * HEAD_DIM,
            block_tables + s * table_stride, inner, factor, SOFTCAP, WINDOW, HEAD_DIM,
            KV_HEADS * HEAD_DIM, BLOCK_SIZE, SPLIT, KEYS, STAGES,
        )  # fmt: skip
        if place < 0:
            top, total, values = merge(top, total, values, split_top, split_total, split_values, factor)
        else:
            at = (place + i).to(tl.int64) * HEADS + heads
            tl.store(sums + 2 * at, split_top, mask=valid)
            tl.store(sums + 2 * at + 1, split_total, mask=valid)
            columns = tl.arange(0, COLUMNS)
            tl.store(states + at[:, None] * COLUMNS + columns[None, :], split_values, mask=valid[:, None])
    if place < 0:
        values = normalized(top, total, values, factor, sinks, heads, valid)
        store_rows(y, values, row, token, heads, valid, HEADS, HEAD_DIM)


@triton.jit(do_not_specialize=["places"])
def combine_kernel(
    y, sinks, states, sums, query_starts, context_lens, places, factor,
    WINDOW: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """Grid: (S, tiles of ROWS heads)."""
    s = tl.program_id(0)
    row = tl.load(query_starts + s)
    if tl.load(query_starts + s + 1) - row != 1:
        return
    place = place_of(s, query_starts, context_lens, places, WINDOW, SPLIT)
    if place < 0:
        return
    _, count = splits_of(tl.load(context_lens + s), WINDOW, SPLIT)
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

PROGRAMS = 528
"""Programs of decode that are wanted at least: four for each of the 132 multiprocessors of an H100."""


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
    tiles = tiles_for(head_dim, q.element_size(), device.capability(q.device))
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
            STAGES=tiles.prompt.stages, num_warps=tiles.prompt.warps,
        )  # fmt: skip
    splits = triton.cdiv(batch.max_context_len, SPLIT)
    rows, tile_heads = tiles.decode.rows, min(group, tiles.decode.rows)
    programs = kv_heads * triton.cdiv(group, tile_heads)
    places = 0 if splits == 1 else min(sequences * splits, PLACES)
    lanes = min(splits, max(8, triton.cdiv(PROGRAMS, sequences * programs)))
    states = torch.empty((places, heads, tiles.columns), dtype=torch.float32, device=q.device)
    sums = torch.empty((places, heads, 2), dtype=torch.float32, device=q.device)
    decode_kernel[(sequences, programs, lanes)](
        q, k_cache, v_cache, y, sinks, states, sums, batch.query_starts, batch.context_lens, batch.block_tables, places,
        q.stride(0), table_stride, inner, factor, **shape, ROWS=rows, TILE_HEADS=tile_heads,
        STAGES=tiles.decode.stages, num_warps=tiles.decode.warps,
    )  # fmt: skip
    if places:
        combine_rows = min(8, triton.next_power_of_2(heads))
        combine_kernel[(sequences, triton.cdiv(heads, combine_rows))](
            y, sinks, states, sums, batch.query_starts, batch.context_lens, places, factor, WINDOW=window, HEADS=heads,
            HEAD_DIM=head_dim, COLUMNS=tiles.columns, ROWS=combine_rows, SPLIT=SPLIT, num_warps=4,
        )  # fmt: skip
    return y
