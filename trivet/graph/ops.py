"""The operations of a model graph and the graph itself: a flat list in execution order.

A value is a matrix of float32, one row per token of the step, `Graph.widths[value]` columns. After `select`, rows
are those of `StepPlan.logit_rows`. The kinds of operation (attrs in parentheses, weights in brackets):

    embed       ()          -> x        [table]  (scale)
    rms_norm    x           -> y        [weight] (eps, group)   group > 0: every `group` columns are normed alone
    add_rms_norm a, b       -> sum, y   [weight] (eps)          sum = a + b; y = rms_norm(sum)
    linear      x           -> y0, ...  [W0, ...] (bias: tuple of Weight | None)   y_i = x W_i^T + b_i
    rope        x           -> y        (head_dim, rotary: index into Graph.rotaries)
    attention   q, k, v     -> y        [sinks?] (layer, heads, kv_heads, head_dim, scale, window, softcap)
                                        writes k, v to the cache of `layer`, then attends causally, to the last
                                        `window` positions, its own among them (0 = all)
    rope_cache  q, k, v     -> q'       (head_dim, rotary, layer)   rotates q and k, and writes k and v to the cache;
                                        the attention after it has the input q' alone. Made by `fuse_rope_cache`,
                                        for runtimes that gain by it
    act_mul     gate, up    -> y        (act: "silu" | "gelu_tanh" | "gelu")       y = act(gate) * up
    gated_linear x          -> y        [G, U] (act, bias)      y = act(x G^T + b) * (x U^T + c). Made by
                                        `fuse_gated_linear`, for runtimes that gain by it
    feed_forward x          -> y        [G, U, D] (act, bias)   y = (act(x G^T + b) * (x U^T + c)) D^T + d. Made by
                                        `fuse_feed_forward`, for runtimes that gain by it
    add         a, b        -> y
    scale       x           -> y        (factor)
    moe         x           -> y        [router, gate, up, down] (top_k, act, normalize, scale)
                                        softmax over experts, best top_k, weights renormalised if `normalize`
    select      x           -> y        keeps the rows that need logits
    logits      x           -> y        [head] (softcap, scale)     y = softcap * tanh(scale * x W^T / softcap)
    output      x           -> y        in the place of logits, where the graph was cut: what a run returns
    input       ()          -> x        in the place of embed, where the graph was cut: what a run is given
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESULTS = {"logits", "output"}
"""Kinds of operation whose result leaves the graph."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A named tensor, or rows `start:stop` of it (of every expert, for a stacked one). `shape` is that of the part."""

    name: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """A rotary embedding: angle(position, i) = position * inv_freq[i]; cos and sin are multiplied by `magnitude`.

    `interleaved` pairs columns (2i, 2i+1) of a head, otherwise (i, i + len(inv_freq)). Columns past
    2 * len(inv_freq) pass through.
    """

    inv_freq: tuple[float, ...]
    interleaved: bool
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class Op:
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[Weight, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's share of the KV cache: K and V each hold `kv_heads * head_dim` values a token."""

    kv_heads: int
    head_dim: int


@dataclass(slots=True)
class Graph:
    ops: list[Op] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    rotaries: list[Rotary] = field(default_factory=list)
    cache: list[CacheLayer] = field(default_factory=list)
