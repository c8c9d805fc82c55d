"""Llama 1 to 3, and the models of its shape: Mistral, which adds a sliding window, Yi, SmolLM2, ..."""

from __future__ import annotations

from trivet.graph.builder import GraphBuilder
from trivet.models.config import ModelConfig


def llama(b: GraphBuilder, c: ModelConfig) -> None:
    x = b.embed("token_embd", c.vocab_size, c.hidden_size)
    for i in range(c.num_layers):
        layer = f"blk.{i}"
        h = b.rms_norm(x, f"{layer}.attn_norm", c.rms_eps)
        names = [f"{layer}.attn_q", f"{layer}.attn_k", f"{layer}.attn_v"]
        q, k, v = b.linears(h, names, [c.q_size, c.kv_size, c.kv_size], fused=f"{layer}.attn_qkv")
        q, k = b.rope(q, c.rotaries[i], c.head_dim), b.rope(k, c.rotaries[i], c.head_dim)
        h = b.attention(q, k, v, c.head_dim, c.attention_scale, c.windows[i])
        x = b.add(x, b.linear(h, f"{layer}.attn_output", c.hidden_size))

        h = b.rms_norm(x, f"{layer}.ffn_norm", c.rms_eps)
        gate = b.linear(h, f"{layer}.ffn_gate", c.ffn_size)
        up = b.linear(h, f"{layer}.ffn_up", c.ffn_size)
        x = b.add(x, b.linear(b.act_mul(gate, up, c.act), f"{layer}.ffn_down", c.hidden_size))
    x = b.rms_norm(b.select(x), "output_norm", c.rms_eps)
    b.logits(x, c.head, c.vocab_size)
