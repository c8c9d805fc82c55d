"""A paged cache with sequences in it, and attention over it in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Batch:
    """What kernels take of a step's inputs."""

    query_starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    max_context_len: int


class Paged:
    """Sequences of `contexts` tokens with random keys and values, in blocks in random order; the rest of the cache is
    NaN. `queries` of the last tokens of each are in the step. Sequences have the keys and values of their `numbers`;
    `seed` decides where they lie."""

    def __init__(
        self,
        contexts: list[int],
        queries: list[int],
        kv_heads: int,
        head_dim: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        *,
        numbers: Sequence[int] | None = None,
        seed: int = 0,
        padding: int = 2,
    ) -> None:
        self.numbers = range(len(contexts)) if numbers is None else numbers
        generator = np.random.default_rng(seed)
        counts = [-(-n // block_size) for n in contexts]
        ids = generator.permutation(sum(counts) + 3)
        self.tables = np.full((len(contexts), max(counts, default=0) + padding), -1, np.int32)
        self.contexts, self.queries, self.block_size = contexts, queries, block_size
        for s, count in enumerate(counts):
            self.tables[s, :count], ids = ids[:count], ids[count:]
        shape = (sum(counts) + 3, block_size, kv_heads, head_dim)
        self.k_cache, self.v_cache = (torch.full(shape, torch.nan).to(dtype) for _ in range(2))
        self.keys, self.values = [], []
        for s, context in enumerate(contexts):
            # Each sequence has its own numbers, whatever else there is.
            own = np.random.default_rng(self.numbers[s])
            k, v = (torch.from_numpy(own.standard_normal((context, kv_heads, head_dim))).to(dtype) for _ in range(2))
            block, slot = self.place(s, np.arange(context))
            self.k_cache.view(torch.uint8 if dtype.itemsize == 1 else dtype)[block, slot] = bits(k)
            self.v_cache.view(torch.uint8 if dtype.itemsize == 1 else dtype)[block, slot] = bits(v)
            self.keys.append(k.double().numpy())
            self.values.append(v.double().numpy())

    def place(self, s: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = self.tables[s, positions // self.block_size]
        return torch.from_numpy(blocks.astype(np.int64)), torch.from_numpy(positions % self.block_size)

    def positions(self, s: int) -> np.ndarray:
        return np.arange(self.contexts[s] - self.queries[s], self.contexts[s])

    def batch(self) -> Batch:
        positions = [self.positions(s) for s in range(len(self.contexts))]
        places = [self.place(s, p) for s, p in enumerate(positions)]
        slots = [block * self.block_size + slot for block, slot in places]
        return Batch(
            torch.tensor(np.concatenate([[0], np.cumsum(self.queries)]), dtype=torch.int32),
            torch.tensor(self.contexts, dtype=torch.int32),
            torch.from_numpy(self.tables),
            torch.from_numpy(np.concatenate(positions).astype(np.int32)),
            torch.cat(slots).to(torch.int32),
            max(self.contexts),
        )


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.uint8) if x.element_size() == 1 else x


def attention(
    q: np.ndarray,
    positions: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """q [n, heads, dim] at `positions` of one sequence, keys and values [context, kv_heads, dim]; like q."""
    group = q.shape[1] // keys.shape[1]
    k, v = (x.repeat(group, axis=1) for x in (keys, values))
    scores = np.einsum("nhd,chd->hnc", q, k) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = positions[:, None] - np.arange(len(keys))
    scores = np.where((distance >= 0) & (distance < (window or len(keys) + 1)), scores, -np.inf)
    highest = scores.max(-1, keepdims=True, initial=-1e30)
    if sinks is not None:
        highest = np.maximum(highest, sinks[:, None, None])
    weights = np.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - highest)
    return np.einsum("hnc,chd->nhd", weights / np.where(total == 0, 1, total), v)
