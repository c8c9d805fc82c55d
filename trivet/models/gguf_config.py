"""A model's configuration from the metadata of a GGUF file, by llama.cpp's keys and defaults."""

from __future__ import annotations

import numpy as np

from trivet.models import rope
from trivet.models.config import MAX_LAYERS, MAX_WIDTH, Experts, ModelConfig, vocab_size_of
from trivet.weights.fields import Fields
from trivet.weights.tensor import Checkpoint

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3")

DEFAULT_WINDOW = {"gemma2": 4096}
WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
"""The last layer of each period sees everything, the others a sliding window."""
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Gemma 27B scales attention by hidden_size / heads, which its files do not say; its depth tells."""


def read(checkpoint: Checkpoint, max_context: int | None) -> ModelConfig:
    """Raises ModelError when the architecture is unknown or a value is missing or absurd."""
    name = Fields(checkpoint.path, checkpoint.metadata).choice("general.architecture", ARCHITECTURES)
    fields = Fields(checkpoint.path, checkpoint.metadata, prefix=f"{name}.")
    gemma = name.startswith("gemma")
    layers = fields.integer("block_count", high=MAX_LAYERS)
    hidden = fields.integer("embedding_length", high=MAX_WIDTH)
    heads = fields.per_layer("attention.head_count", layers)
    head_dim = fields.integer("attention.key_length", hidden // heads, high=MAX_WIDTH)
    value_length = fields.integer("attention.value_length", head_dim)
    if value_length != head_dim:
        raise fields.error("attention.value_length", value_length, f"{head_dim}, as attention.key_length")
    if not fields.boolean("attention.causal", True):
        raise fields.error("attention.causal", False, "true")

    context = fields.integer("context_length")
    rotated = fields.integer("rope.dimension_count", head_dim, low=2, high=head_dim)
    if rotated % 2:
        raise fields.error("rope.dimension_count", rotated, "an even number")
    windows = _windows(fields, name, layers)
    rotary = rope.from_gguf(checkpoint, fields, rotated, name == "llama", context, max_context or context)
    local = rotary
    if name == "gemma3" or "rope.freq_base_swa" in fields:
        base = fields.number("rope.freq_base_swa", 10000.0, low=2)
        local = rope.rotary(rope.default(rotated, base), interleaved=False)

    scale_dim = hidden / heads if layers == LAYERS_OF_27B.get(name) else head_dim
    experts = _experts(fields, name, layers)
    return ModelConfig(
        architecture="mixtral" if name == "llama" and experts.count else name,
        vocab_size=fields.integer("vocab_size", vocab_size_of(checkpoint)),
        context_length=context,
        hidden_size=hidden,
        ffn_size=_ffn_size(fields, layers, required=not experts.count),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.per_layer("attention.head_count_kv", layers, heads),
        head_dim=head_dim,
        rms_eps=fields.positive("attention.layer_norm_rms_epsilon"),
        act="gelu_tanh" if gemma else "silu",
        rotaries=tuple(local if window else rotary for window in windows),
        windows=windows,
        attention_scale=fields.positive("attention.scale", scale_dim**-0.5),
        attention_softcap=fields.number("attn_logit_softcapping", 50.0, low=0) if name == "gemma2" else 0.0,
        logit_softcap=fields.number("final_logit_softcapping", 30.0 if name == "gemma2" else 0.0, low=0),
        embedding_scale=hidden**0.5 if gemma else 1.0,
        tied="output.weight" not in checkpoint.tensors,
        experts=experts,
    )


def _ffn_size(fields: Fields, layers: int, required: bool) -> int:
    return fields.per_layer("feed_forward_length", layers, None if required else 0, low=1 if required else 0)


def _windows(fields: Fields, name: str, layers: int) -> tuple[int, ...]:
    window = fields.integer("attention.sliding_window", DEFAULT_WINDOW.get(name, 0), low=0)
    key = "attention.sliding_window_pattern"
    pattern = fields.values.get(fields.prefix + key)
    if isinstance(pattern, list | np.ndarray):
        if len(pattern) != layers:
            raise fields.error(key, pattern, f"a number, or {layers} booleans")
        return tuple(window if sliding else 0 for sliding in pattern)
    period = fields.integer(key, WINDOW_PERIOD.get(name, 0), low=0)
    return tuple(window if not period or i % period < period - 1 else 0 for i in range(layers))


def _experts(fields: Fields, name: str, layers: int) -> Experts:
    moe = name == "qwen3moe"
    count = fields.integer("expert_count", None if moe else 0, low=1 if moe else 0, high=MAX_WIDTH)
    if not count:
        return Experts()
    softmax = 1
    gating = fields.integer("expert_gating_func", softmax, low=0)
    if gating not in (0, softmax):
        raise fields.error("expert_gating_func", gating, "1, softmax")
    return Experts(
        count=count,
        used=fields.integer("expert_used_count"),
        ffn_size=fields.integer("expert_feed_forward_length", _ffn_size(fields, layers, False), high=2**24),
        normalize=fields.boolean("expert_weights_norm", True),
        scale=fields.number("expert_weights_scale", 1.0, low=0) or 1.0,
    )
