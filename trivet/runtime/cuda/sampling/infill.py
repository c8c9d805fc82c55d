"""llama.cpp's stage "infill" over whole rows of scores, as `native/sampling/infill.cpp` does it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import triton

from trivet.runtime.cuda.kernels.sampling import EXACT
from trivet.runtime.cuda.kernels.sampling.infill import find_likeliest, merge_masses
from trivet.runtime.cuda.sampling.stages import left, weights
from trivet.runtime.cuda.sampling.upload import upload

_LEAST = 0.2
_ONE = 2.0**44
"""What the weight of the best candidate is as an integer: sums of integers are the same in any order."""
_IMPOSSIBLE = -math.inf
_BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Which tokens begin which others, on the device: see kernels/sampling/infill.py."""

    parents: torch.Tensor
    places: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, piece_parents: bytes, vocab_size: int, device: torch.device) -> Pieces:
        """Of `Chain.piece_parents`, for logits of `vocab_size` tokens."""
        parents = np.frombuffer(piece_parents, np.int32)
        size = max(vocab_size, len(parents), parents.max(initial=-1) + 1)
        parents = np.concatenate([parents, np.full(size - len(parents), -1, np.int32)])
        depths = np.zeros_like(parents)
        above = parents
        while (above >= 0).any():
            depths += above >= 0
            above = np.where(above >= 0, parents[above], -1)
        while (beyond := parents >= vocab_size).any():  # they are no candidates, but those that begin them may be
            parents = np.where(beyond, parents[parents], parents)
        tokens = np.argsort(depths[:vocab_size], kind="stable").astype(np.int32)
        places = np.empty_like(tokens)
        places[tokens] = np.arange(vocab_size, dtype=np.int32)
        return cls(**upload({"parents": parents[:vocab_size], "places": places, "tokens": tokens}, device))


def keep_infill(x: torch.Tensor, ends: torch.Tensor, end_is_possible: torch.Tensor, pieces: Pieces) -> torch.Tensor:
    """The scores [G, V] that are left. `ends` [G, E] are the tokens that end generation, V for none; `end_is_possible`
    [G, 1] is of the first of them. Rows without any candidate stay so."""
    vocab_size = x.shape[1]
    there = x > _IMPOSSIBLE
    is_end = torch.zeros((len(x), vocab_size + 1), dtype=torch.bool, device=x.device).scatter_(1, ends, True)
    is_end = is_end[:, :-1] & there
    w = weights(x)
    masses = torch.where(there, w.double() * _ONE, 0).long()
    total, end = masses.sum(1, keepdim=True), torch.where(is_end, masses, 0).sum(1, keepdim=True)
    ends_now = 3 * end.double() * left(x).double() > (total - end).double()

    merged = _merged(x, w, masses, pieces)
    likely = there & (is_end | (merged.double() >= _LEAST * total.double()))
    texts = (likely & ~is_end).sum(1, keepdim=True)
    mean = torch.where(likely, merged, 0).sum(1, keepdim=True).double() / (texts + 1).double()
    kept = torch.where(ends_now, is_end, likely & (is_end | (merged.double() >= mean)))

    ids = torch.arange(vocab_size, device=x.device)
    best = torch.where(x == x.amax(1, keepdim=True), ids, vocab_size).amin(1, keepdim=True)
    only_end = torch.where(ids == ends[:, :1], 0.0, _IMPOSSIBLE)
    only_one = torch.where(end_is_possible, only_end, torch.where(ids == best, x, _IMPOSSIBLE))
    return torch.where(ends_now | (texts > 0), torch.where(kept, x, _IMPOSSIBLE), only_one)


def _merged(x: torch.Tensor, w: torch.Tensor, masses: torch.Tensor, pieces: Pieces) -> torch.Tensor:
    """[G, V] int64"""
    rows, vocab_size = x.shape
    likeliest, merged = torch.full_like(masses, -1), torch.zeros_like(masses)
    grid, options = (rows, triton.cdiv(vocab_size, _BLOCK)), {"BLOCK": _BLOCK, "num_warps": 4} | EXACT
    find_likeliest[grid](x, w, pieces.parents, pieces.places, likeliest, vocab_size, **options)
    merge_masses[grid](
        *(x, masses, pieces.parents, pieces.places, pieces.tokens, likeliest, merged, vocab_size), **options
    )
    return merged
