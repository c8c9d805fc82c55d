"""Qwen 2 and 2.5: Llama with biases on q, k and v."""

from __future__ import annotations

from trivet.graph.builder import GraphBuilder
from trivet.models.blocks import gated_ffn, head, qkv
from trivet.models.config import ModelConfig


def qwen2(b: GraphBuilder, c: ModelConfig) -> None:
    x = b.embed("token_embd", c.vocab_size, c.hidden_size)
    for i in range(c.num_layers):
        layer = f"blk.{i}"
        h = b.rms_norm(x, f"{layer}.attn_norm", c.rms_eps)
        q, k, v = qkv(b, c, layer, h, bias=True)
        q, k = b.rope(q, c.rotaries[i], c.head_dim), b.rope(k, c.rotaries[i], c.head_dim)
        h = b.attention(q, k, v, c.head_dim, c.attention_scale, c.windows[i])
        x = b.add(x, b.linear(h, f"{layer}.attn_output", c.hidden_size))
        h = b.rms_norm(x, f"{layer}.ffn_norm", c.rms_eps)
        x = b.add(x, gated_ffn(b, c, layer, h))
    head(b, c, x)
