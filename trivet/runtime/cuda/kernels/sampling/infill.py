"""Texts that begin others, and the masses that those give each other: `native/sampling/infill.cpp` says how.

`parents` [V] are the longest other tokens that begin a token's text, or -1; `places` [V] number the tokens, shorter
texts before those that they begin, and `tokens` [V] are the tokens in that order. All are int32.
"""

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.sampling.arithmetic import IMPOSSIBLE

LAST_PLACE = tl.constexpr(0xFFFFFFFF)


@triton.jit
def find_likeliest(scores, weights, parents, places, likeliest, vocab_size, BLOCK: tl.constexpr):
    """Of the candidates whose texts begin with each token's, its own among them, what orders them: `likeliest` [G, V]
    (int64, negative before) is larger for a larger weight, and for the shorter text of two that are equal."""
    row = tl.program_id(0).to(tl.int64) * vocab_size
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = tl.load(scores + row + ids, mask=ids < vocab_size, other=IMPOSSIBLE) > IMPOSSIBLE
    weight = tl.load(weights + row + ids, mask=there, other=0.0)
    place = tl.load(places + ids, mask=there, other=0)
    key = (weight.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (LAST_PLACE - place.to(tl.int64))
    text = tl.where(there, ids, -1)
    while tl.max(text) >= 0:
        tl.atomic_max(likeliest + row + text, key, mask=text >= 0)
        text = tl.load(parents + text, mask=text >= 0, other=-1)


@triton.jit
def merge_masses(scores, masses, parents, places, tokens, likeliest, merged, vocab_size, BLOCK: tl.constexpr):
    """Adds each candidate's mass (int64) to that of the token that has it in the end; `merged` [G, V] is 0 before."""
    row = tl.program_id(0).to(tl.int64) * vocab_size
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = tl.load(scores + row + ids, mask=ids < vocab_size, other=IMPOSSIBLE) > IMPOSSIBLE
    mass = tl.load(masses + row + ids, mask=there, other=0)
    key = tl.load(likeliest + row + ids, mask=there, other=0)
    into = tl.load(tokens + (LAST_PLACE - (key & LAST_PLACE)), mask=there, other=0)
    text = tl.where(there, ids, -1)
    while tl.max(text) >= 0:
        best = tl.load(likeliest + row + text, mask=text >= 0, other=0) & LAST_PLACE
        own = LAST_PLACE - tl.load(places + text, mask=text >= 0, other=-1).to(tl.int64)
        into = tl.where((text >= 0) & (best == own), text, into)
        text = tl.load(parents + text, mask=text >= 0, other=-1)
    tl.atomic_add(merged + row + into, mass, mask=there)
