"""Attention and rope on a GPU: results against float64, then speeds beside the machine's limits.

Used by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench import gpu_products
from bench.gpu_model import Limits
from bench.gpu_table import Row, check
from tests.runtime.cuda import paged
from trivet.runtime.cuda.kernels import attention as kernels
from trivet.runtime.cuda.kernels.attention import attention
from trivet.runtime.cuda.kernels.rope import rope_and_cache

FLASH_ATTENTION_2 = 0.35 * 989e12
"""Operations a second of FlashAttention 2 on an H100: 35 % of its peak in bfloat16, says the paper on its successor."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float8_e4m3fn: 1e-2}
"""Of ‖result - reference‖ / ‖reference‖, by the cache's type."""


@dataclass(frozen=True)
class Heads:
    heads: int
    kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.heads}/{self.kv_heads} x {self.head_dim}"


def moved(batch: paged.Batch, device: str) -> paged.Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return paged.Batch(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in values.items()})


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double().cpu() - expected).norm() / expected.norm())


SHAPES = {Heads(32, 8, 128): 16, Heads(14, 2, 64): 32, Heads(16, 16, 96): 64, Heads(8, 4, 256): 128}
"""And the sizes of the cache's blocks."""

TINY = {Heads(4, 1, 64): 16}


def checks(device: str, shape: Heads, block_size: int, tiny: bool) -> Iterator[Row]:
    """That results are as near to float64 as their types let them be, and rows the same in any company."""
    types = [torch.bfloat16, torch.float32]
    if device == "cpu" or torch.cuda.get_device_capability() >= (8, 9):
        types.append(torch.float8_e4m3fn)
    contexts, queries = ([600, 70], [3, 70]) if tiny else ([3000, 777, 1025, 40], [130, 777, 1, 1])
    cases: list[tuple[torch.dtype, dict[str, Any]]] = [(dtype, {}) for dtype in types]
    cases.append((torch.bfloat16, {"window": 300, "softcap": 20.0, "sinks": torch.linspace(-2, 3, shape.heads)}))
    for dtype, options in cases:
        yield attention_check(device, shape, block_size, dtype, contexts, queries, options)
    for dtype in types:
        if dtype != torch.float32:
            yield same_rows_check(device, shape, dtype, contexts)
            yield rope_check(device, shape, dtype, 4 if tiny else 4096)


def attend(
    device: str, step: paged.Paged, heads: int, q: torch.Tensor, options: dict[str, Any], decode: bool
) -> torch.Tensor:
    kv_heads, head_dim = step.k_cache.shape[2:]
    return attention(
        q, step.k_cache.to(device), step.v_cache.to(device), moved(step.batch(), device), heads=heads,
        kv_heads=kv_heads, head_dim=head_dim, decode=decode,
        **{"scale": head_dim**-0.5, "window": 0, "softcap": 0.0}
        | {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()},
    )  # fmt: skip


def attention_check(
    device: str,
    shape: Heads,
    block_size: int,
    cache: torch.dtype,
    contexts: list[int],
    queries: list[int],
    options: dict[str, Any],
) -> Row:
    dtype = torch.float32 if cache == torch.float32 else torch.bfloat16
    step = paged.Paged(contexts, queries, shape.kv_heads, shape.head_dim, block_size, cache)
    sinks = options["sinks"].double().numpy() if "sinks" in options else None
    q = torch.randn(sum(queries), shape.heads * shape.head_dim).to(dtype)
    got = attend(device, step, shape.heads, q.to(device), options, decode=False)
    parts = q.double().numpy().reshape(len(q), shape.heads, shape.head_dim)
    expected = np.concatenate(
        [
            paged.attention(
                part, step.positions(s), step.keys[s], step.values[s], shape.head_dim**-0.5,
                options.get("window", 0), options.get("softcap", 0.0), sinks,
            )
            for s, part in enumerate(np.split(parts, np.cumsum(queries)[:-1]))
        ]
    )  # fmt: skip
    error = difference(got, torch.from_numpy(expected).reshape(got.shape))
    name = f"attention {shape}, cache {name_of(cache)}{', window, soft cap, sinks' if options else ''}"
    return check(name, error, TOLERANCE[cache])


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def same_rows_check(device: str, shape: Heads, cache: torch.dtype, contexts: list[int]) -> Row:
    """The last row of each sequence, from the prompt kernel in pieces of two lengths and from decode, as of few
    sequences and as of many."""
    width = shape.heads * shape.head_dim
    q = [torch.randn(n, width).to(torch.bfloat16) for n in contexts]
    results = []
    for most, waves in ((1, 4), (1, 0), (2, 4), (50, 4)):
        queries = [min(most, n) for n in contexts]
        step = paged.Paged(contexts, queries, shape.kv_heads, shape.head_dim, 16, cache)
        rows = torch.cat([x[-n:] for x, n in zip(q, queries, strict=True)]).to(device)
        with mock.patch.object(kernels, "WAVES", waves):
            y = attend(device, step, shape.heads, rows, {}, decode=most == 1)
        results.append(y[np.cumsum(queries) - 1].cpu())
    different = sum(int((a != results[0]).any(1).sum()) for a in results[1:])
    return check(f"attention {shape}, cache {name_of(cache)}, same rows", different, 0, "{} differ")


ROUNDING = {torch.bfloat16: 4e-3, torch.float8_e4m3fn: 4e-2}
"""Of ‖result - reference‖ / ‖reference‖: to 8 and 4 bits."""


def rope_check(device: str, shape: Heads, cache: torch.dtype, tokens: int) -> Row:
    """Of queries, and of the keys and values in the cache."""
    widths = [n * shape.head_dim for n in (shape.heads, shape.kv_heads, shape.kv_heads)]
    q, k, v = torch.randn(tokens, sum(widths)).to(torch.bfloat16).split(widths, 1)
    positions = torch.randint(0, 131072, (tokens,), dtype=torch.int32)
    slots = torch.randperm(tokens + 16 - tokens % 16)[:tokens].to(torch.int32)
    frequencies = 500_000.0 ** -(torch.arange(shape.head_dim // 2, dtype=torch.float64) * 2 / shape.head_dim)
    size = tokens // 16 + 1, 16, shape.kv_heads, shape.head_dim
    caches = [torch.zeros(size).to(cache).to(device) for _ in range(2)]
    on_device = [x.to(device) for x in (q, k, v, positions, slots, frequencies)]
    got = rope_and_cache(*on_device, False, 1.0, shape.head_dim, *caches)
    angles = positions.double()[:, None, None] * frequencies

    def rotated(x: torch.Tensor) -> torch.Tensor:
        a, b = x.double().unflatten(1, (-1, shape.head_dim)).chunk(2, 2)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], 2).flatten(1)

    keys, values = (paged.bits(x.cpu()).flatten(0, 1).flatten(1)[slots.long()].view(cache) for x in caches)
    stored = max(difference(keys, rotated(k)), difference(values, v.double()))
    error = max(difference(got, rotated(q)) / ROUNDING[torch.bfloat16], stored / ROUNDING[cache])
    return check(f"rope and cache {shape}, cache {name_of(cache)}", error, 1, "{:.2f} of what rounding explains")


Sizes = tuple[tuple[int, int], ...]
"""Of batches: how many sequences of how many tokens."""


def timings(
    device: str,
    limits: Limits,
    shape: Heads = Heads(32, 8, 128),
    prompts: Sizes = ((8, 2048), (2, 8192), (1, 16384)),
    decodes: Sizes = ((1, 8192), (64, 1024), (256, 1024), (16, 16384)),
    cache: int = gpu_products.CACHE,
) -> Iterator[Row]:
    for batch, length in prompts:
        yield prompt_row(device, shape, batch, length, cache)
    for batch, context in decodes:
        yield decode_row(device, shape, batch, context, limits, cache)


def case(device: str, shape: Heads, batch: int, context: int, queries: int) -> tuple[Any, ...]:
    """Random bits of a reasonable size, in blocks in random order."""
    blocks = batch * context // 16
    caches = [
        torch.randn(blocks, 16, shape.kv_heads, shape.head_dim, dtype=torch.bfloat16, device=device) for _ in range(2)
    ]
    tokens = batch * queries
    q = torch.randn(tokens, shape.heads * shape.head_dim, dtype=torch.bfloat16, device=device)
    tables = torch.randperm(blocks, device=device).to(torch.int32).view(batch, -1)
    starts = torch.arange(batch + 1, device=device, dtype=torch.int32) * queries
    lengths = torch.full((batch,), context, device=device, dtype=torch.int32)
    unused = torch.empty(0, dtype=torch.int32)
    return q, *caches, paged.Batch(starts, lengths, tables, unused, unused, context)


def seconds(device: str, shape: Heads, batch: int, context: int, queries: int, cache: int) -> float:
    """From replays of a graph, which has as many batches as are more than `cache` bytes."""
    several = range(cache // cache_bytes(shape, batch, context) + 1)
    sizes = {"heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
    options = {"scale": shape.head_dim**-0.5, "window": 0, "softcap": 0.0, "decode": queries == 1}
    cases = [case(device, shape, batch, context, queries) for _ in several]
    return gpu_products.each(lambda args: attention(*args, **sizes, **options), cases, device)


def cache_bytes(shape: Heads, batch: int, context: int) -> int:
    """Of a layer's keys and values in bfloat16."""
    return 4 * batch * context * shape.kv_heads * shape.head_dim


def prompt_row(device: str, shape: Heads, batch: int, length: int, cache: int) -> Row:
    took = seconds(device, shape, batch, length, length, cache)
    operations = 2 * batch * length**2 * shape.heads * shape.head_dim
    reached = operations / took
    return Row(
        f"attention {shape}, {batch} x {length} causal",
        f"{took * 1e3:.2f} ms, {reached / 1e12:.0f} TFLOP/s",
        f"FlashAttention 2: {FLASH_ATTENTION_2 / 1e12:.0f} TFLOP/s",
        reached / FLASH_ATTENTION_2,
        0.7,
    )


def decode_row(device: str, shape: Heads, batch: int, context: int, limits: Limits, cache: int) -> Row:
    took = seconds(device, shape, batch, context, 1, cache)
    data = cache_bytes(shape, batch, context)
    bound = data / limits.bandwidth
    return Row(
        f"attention {shape}, {batch} x 1 of {context}",
        f"{took * 1e6:.0f} us, {data / took / 1e9:.0f} GB/s",
        f"{bound * 1e6:.0f} us = {data / 1e6:.0f} MB",
        bound / took,
        0.7,
    )
