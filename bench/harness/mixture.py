"""A mixture of experts to measure: no tool here makes one, and the smallest that is published is too large to fetch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.tensor import TensorInfo


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    used: int
    ffn: int


SHAPES = {
    # A layer of Qwen3-30B-A3B has as many units in each of as many experts per token; here are half the experts to
    # choose from, and 6 layers of 48.
    "qwen3moe-2b": Shape(layers=6, hidden=2048, heads=32, kv_heads=4, head_dim=128, experts=64, used=8, ffn=768),
}


def write_mixture(name: str, vocabulary: GGUFFile, target: Path) -> None:
    """Write a shape with normal random weights in BF16, and the vocabulary of another model."""
    shape = SHAPES[name]
    kept = {k: v for k, v in vocabulary.metadata.items() if k.startswith("tokenizer.")}
    values = {
        "context_length": 8192,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.ffn,
        "expert_feed_forward_length": shape.ffn,
        "expert_count": shape.experts,
        "expert_used_count": shape.used,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }
    metadata = {"general.architecture": "qwen3moe", "general.name": name, "general.file_type": 32}
    metadata |= {f"qwen3moe.{key}": value for key, value in values.items()} | kept
    rng = np.random.default_rng(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    infos = _tensors(shape, len(kept["tokenizer.ggml.tokens"]))
    with GGUFWriter(target, metadata, infos, vocabulary.types) as writer:
        for info in infos:
            width = info.shape[-1]
            if len(info.shape) == 1:
                writer.write(info.name, np.ones(width, np.float32))
                continue
            for _ in range(info.shape[0] if len(info.shape) == 3 else 1):
                values32 = rng.standard_normal((info.shape[-2], width), np.float32) / np.float32(math.sqrt(width))
                exact = info.format is Format.F32
                writer.write(info.name, values32 if exact else (values32.view(np.uint32) >> 16).astype(np.uint16))


def _tensors(shape: Shape, vocab_size: int) -> list[TensorInfo]:
    q, kv, hidden = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden

    def tensor(name: str, *dims: int) -> TensorInfo:
        exact = len(dims) == 1 or "gate_inp" in name
        return TensorInfo(f"{name}.weight", dims, Format.F32 if exact else Format.BF16)

    infos = [tensor("token_embd", vocab_size, hidden), tensor("output_norm", hidden)]
    for i in range(shape.layers):
        infos += [
            tensor(f"blk.{i}.attn_norm", hidden),
            tensor(f"blk.{i}.attn_q", q, hidden),
            tensor(f"blk.{i}.attn_k", kv, hidden),
            tensor(f"blk.{i}.attn_v", kv, hidden),
            tensor(f"blk.{i}.attn_q_norm", shape.head_dim),
            tensor(f"blk.{i}.attn_k_norm", shape.head_dim),
            tensor(f"blk.{i}.attn_output", hidden, q),
            tensor(f"blk.{i}.ffn_norm", hidden),
            tensor(f"blk.{i}.ffn_gate_inp", shape.experts, hidden),
            tensor(f"blk.{i}.ffn_gate_exps", shape.experts, shape.ffn, hidden),
            tensor(f"blk.{i}.ffn_up_exps", shape.experts, shape.ffn, hidden),
            tensor(f"blk.{i}.ffn_down_exps", shape.experts, hidden, shape.ffn),
        ]
    return infos
