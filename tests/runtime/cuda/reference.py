"""What the kernels of trivet/runtime/cuda/kernels compute, in plain torch and float64, of dense weights: quicker than
Triton's interpreter, for tests of what calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trivet.engine.plan import SampleRow, StepOutput
from trivet.runtime.cuda.kernels.gated import GROUP
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.sampling import sampler

Tensor = torch.Tensor


def linear(
    x: Tensor,
    matrix: Matrix,
    bias: Tensor | None = None,
    numerics: str = "exact",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    y = x.double() @ matrix.values.double().T
    y = (y if bias is None else y + bias.double()).to(dtype or x.dtype)
    return y if out is None else out.copy_(y)


def embed(token_ids: Tensor, table: Matrix, scale: float, dtype: torch.dtype) -> Tensor:
    return (table.values.float()[token_ids.long()] * scale).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, group: int = 0) -> Tensor:
    parts = x.double().reshape(len(x), -1, group or x.shape[1])
    normed = parts * torch.rsqrt((parts**2).mean(-1, keepdim=True) + eps) * weight.double()
    return normed.reshape(x.shape).to(x.dtype)


def add_rms_norm(a: Tensor, b: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return a + b, rms_norm(a + b, weight, eps)


def activation(name: str, x: Tensor) -> Tensor:
    if name == "silu":
        return torch.nn.functional.silu(x)
    return torch.nn.functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def act_mul(gate: Tensor, up: Tensor, act: str) -> Tensor:
    return (activation(act, gate.double()) * up.double()).to(gate.dtype)


def gated_linear(x: Tensor, matrix: Matrix, act: str) -> Tensor:
    gate, up = linear(x.double(), matrix).unflatten(1, (-1, 2, GROUP)).unbind(2)
    return act_mul(gate.flatten(1), up.flatten(1), act).to(x.dtype)


def rope(x: Tensor, positions: Tensor, inv_freq: Tensor, interleaved: bool, magnitude: float, head_dim: int) -> Tensor:
    half = len(inv_freq)
    angles = positions.double()[:, None, None] * inv_freq.double()
    cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
    heads = x.double().reshape(len(x), -1, head_dim).clone()
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    )
    a, b = heads[..., first].clone(), heads[..., second].clone()
    heads[..., first], heads[..., second] = a * cos - b * sin, b * cos + a * sin
    return heads.reshape(x.shape).to(x.dtype)


def write_cache(k: Tensor, v: Tensor, slots: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    for values, cache in ((k, k_cache), (v, v_cache)):
        places = cache.view(-1, *cache.shape[2:])
        for row, slot in zip(values, slots.tolist(), strict=True):
            if slot >= 0:
                places[slot] = row.reshape(places.shape[1:]).to(cache.dtype)


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    slots: Tensor,
    inv_freq: Tensor,
    interleaved: bool,
    magnitude: float,
    head_dim: int,
    k_cache: Tensor,
    v_cache: Tensor,
) -> Tensor:
    rotary = positions, inv_freq, interleaved, magnitude, head_dim
    write_cache(rope(k, *rotary), v, slots, k_cache, v_cache)
    return rope(q, *rotary)


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    inputs: Any,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None = None,
    decode: bool,
) -> Tensor:
    output = torch.zeros(len(q), heads * head_dim, dtype=q.dtype)
    size = k_cache.shape[1]
    starts = inputs.query_starts.tolist()
    for s, context in enumerate(inputs.context_lens.tolist()):
        blocks = inputs.block_tables[s, : -(-context // size)].long()
        k, v = (
            cache[blocks].reshape(-1, kv_heads, head_dim)[:context].double().repeat_interleave(heads // kv_heads, 1)
            for cache in (k_cache, v_cache)
        )
        queries = q[starts[s] : starts[s + 1]].double().reshape(-1, heads, head_dim)
        scores = torch.einsum("qhd,khd->hqk", queries, k) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        places = torch.arange(context - len(queries), context)[:, None]
        distance = places - torch.arange(context)
        scores = scores.masked_fill((distance < 0) | (distance >= (window or context)), -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks.double().view(-1, 1, 1).expand(-1, len(queries), 1)], -1)
        shares = scores.softmax(-1)[..., :context]
        output[starts[s] : starts[s + 1]] = torch.einsum("hqk,khd->qhd", shares, v).reshape(len(queries), -1)
    return output


def moe(
    x: Tensor,
    router: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    top_k: int,
    act: str,
    normalize: bool,
    scale: float,
) -> Tensor:
    rows = x.double()
    shares, experts = (rows @ router.values.double().T).softmax(-1).topk(top_k)
    if normalize:
        shares = shares / shares.sum(-1, keepdim=True)
    output = torch.zeros_like(rows)
    for i, row in enumerate(rows):
        for share, e in zip(shares[i], experts[i], strict=True):
            hidden = activation(act, gate.values[e].double() @ row) * (up.values[e].double() @ row)
            output[i] += scale * share * (down.values[e].double() @ hidden)
    return output.to(x.dtype)


class DeviceSamples:
    def __init__(self, output: StepOutput) -> None:
        self.output = output
        self.tokens = torch.tensor(output.tokens, dtype=torch.int32)

    def collect(self) -> StepOutput:
        return self.output


@dataclass
class SamplingBatch:
    rows: Sequence[SampleRow]


class DeviceSampler:
    def __init__(self, vocab_size: int, device: torch.device) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def prepare(self, rows: Sequence[SampleRow]) -> SamplingBatch:
        return SamplingBatch(rows)

    def sample(self, logits: Tensor, batch: SamplingBatch) -> DeviceSamples:
        return DeviceSamples(sampler.sample(logits.numpy(), batch.rows))


KERNELS = (
    *(act_mul, add_rms_norm, attention, embed, gated_linear, linear, moe, rms_norm, rope, rope_and_cache, write_cache),
)
