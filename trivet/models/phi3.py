"""Phi 3, 3.5 and 4: Llama with q, k, v in one matrix, gate and up in another, and LongRoPE."""

from __future__ import annotations

from trivet.graph.builder import GraphBuilder
from trivet.models.blocks import head, qkv
from trivet.models.config import ModelConfig


def phi3(b: GraphBuilder, c: ModelConfig) -> None:
    x = b.embed("token_embd", c.vocab_size, c.hidden_size)
    for i in range(c.num_layers):
        layer = f"blk.{i}"
        h = b.rms_norm(x, f"{layer}.attn_norm", c.rms_eps)
        q, k, v = qkv(b, c, layer, h)
        q, k = b.rope(q, c.rotaries[i], c.head_dim), b.rope(k, c.rotaries[i], c.head_dim)
        h = b.attention(q, k, v, c.head_dim, c.attention_scale, c.windows[i])
        x = b.add(x, b.linear(h, f"{layer}.attn_output", c.hidden_size))
        h = b.rms_norm(x, f"{layer}.ffn_norm", c.rms_eps)
        gate, up = b.fused_linear(h, f"{layer}.ffn_up", [c.ffn_size, c.ffn_size])
        x = b.add(x, b.linear(b.act_mul(gate, up, c.act), f"{layer}.ffn_down", c.hidden_size))
    head(b, c, x)
