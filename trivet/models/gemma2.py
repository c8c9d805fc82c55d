"""Gemma 2: scaled embeddings, norms before and after each block, soft caps, a sliding window in every other layer.

Norm weights are stored with their 1 added, as in all GGUF files of Gemma.
"""

from __future__ import annotations

from trivet.graph.builder import GraphBuilder
from trivet.models.blocks import gated_ffn, head, qkv
from trivet.models.config import ModelConfig


def gemma2(b: GraphBuilder, c: ModelConfig) -> None:
    x = b.embed("token_embd", c.vocab_size, c.hidden_size, c.embedding_scale)
    for i in range(c.num_layers):
        layer = f"blk.{i}"
        h = b.rms_norm(x, f"{layer}.attn_norm", c.rms_eps)
        q, k, v = qkv(b, c, layer, h)
        q, k = b.rope(q, c.rotaries[i], c.head_dim), b.rope(k, c.rotaries[i], c.head_dim)
        h = b.attention(q, k, v, c.head_dim, c.attention_scale, c.windows[i], c.attention_softcap)
        h = b.linear(h, f"{layer}.attn_output", c.hidden_size)
        x = b.add(x, b.rms_norm(h, f"{layer}.post_attention_norm", c.rms_eps))
        h = b.rms_norm(x, f"{layer}.ffn_norm", c.rms_eps)
        h = gated_ffn(b, c, layer, h)
        x = b.add(x, b.rms_norm(h, f"{layer}.post_ffw_norm", c.rms_eps))
    head(b, c, x)
