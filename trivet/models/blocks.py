"""The parts that all architectures share."""

from __future__ import annotations

from trivet.graph.builder import GraphBuilder, Value
from trivet.models.config import ModelConfig


def qkv(b: GraphBuilder, c: ModelConfig, layer: str, x: Value, bias: bool = False) -> list[Value]:
    """Queries, keys and values, from three matrices or a fused one."""
    rows = [c.q_size, c.kv_size, c.kv_size]
    if f"{layer}.attn_qkv.weight" in b.tensors:
        return b.fused_linear(x, f"{layer}.attn_qkv", rows, bias)
    return [b.linear(x, f"{layer}.attn_{name}", r, bias) for name, r in zip("qkv", rows, strict=True)]


def gated_ffn(b: GraphBuilder, c: ModelConfig, layer: str, x: Value) -> Value:
    gate = b.linear(x, f"{layer}.ffn_gate", c.ffn_size)
    up = b.linear(x, f"{layer}.ffn_up", c.ffn_size)
    return b.linear(b.act_mul(gate, up, c.act), f"{layer}.ffn_down", c.hidden_size)


def moe_ffn(b: GraphBuilder, c: ModelConfig, layer: str, x: Value) -> Value:
    e = c.experts
    return b.moe(x, layer, e.count, e.ffn_size, e.used, c.act, e.normalize, e.scale)


def head(b: GraphBuilder, c: ModelConfig, x: Value) -> Value:
    """The final norm and the logits of the rows that need them."""
    x = b.rms_norm(b.select(x), "output_norm", c.rms_eps)
    return b.logits(x, "token_embd" if c.tied else "output", c.vocab_size, c.logit_softcap)
