"""A model's configuration as GGUF metadata, by llama.cpp's keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trivet.graph.ops import Rotary
from trivet.models import gguf_config, rope
from trivet.models.config import ModelConfig
from trivet.models.huggingface_config import local_rope_parameters, rope_parameters, text_config
from trivet.weights.tensor import Checkpoint

ARCHITECTURES = {"mistral": "llama", "mixtral": "llama"}
"""GGUF's name where it is not ours."""


def hyperparameters(checkpoint: Checkpoint, config: ModelConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata of a Hugging Face folder's configuration, and the vectors (float32) that belong to it."""
    name = ARCHITECTURES.get(config.architecture, config.architecture)
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_eps,
    }
    if not math.isclose(config.attention_scale, config.head_dim**-0.5):
        values["attention.scale"] = config.attention_scale
    if config.architecture == "gemma2":
        values["attn_logit_softcapping"] = config.attention_softcap
    if config.logit_softcap or config.architecture == "gemma2":
        values["final_logit_softcapping"] = config.logit_softcap
    if experts := config.experts.count:
        values |= {"expert_count": experts, "expert_used_count": config.experts.used}
        if config.experts.ffn_size != config.ffn_size:
            values["expert_feed_forward_length"] = config.experts.ffn_size
        if not config.experts.normalize:
            values["expert_weights_norm"] = False
    values |= _windows(config, name)
    scaling, vectors = _rope(checkpoint, config)
    values |= scaling
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in values.items()}
    return metadata, vectors


def _windows(config: ModelConfig, name: str) -> dict[str, Any]:
    window = max(config.windows)
    period = gguf_config.WINDOW_PERIOD.get(name)
    if not window and not period:
        return {}
    values: dict[str, Any] = {"attention.sliding_window": window}
    sliding = [w > 0 for w in config.windows]
    if sliding != [not period or i % period < period - 1 for i in range(config.num_layers)]:
        values["attention.sliding_window_pattern"] = sliding
    return values


def _rope(checkpoint: Checkpoint, config: ModelConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    name, fields = text_config(checkpoint)
    parameters = rope_parameters(fields)
    original = rope.original_context(fields, parameters)
    base = parameters.number("rope_theta", fields.number("rope_theta", 10000.0))
    short, long = (_rotary(checkpoint, length) for length in (original, max(original + 1, config.context_length)))
    dim = 2 * len(long.inv_freq)
    values: dict[str, Any] = {"rope.dimension_count": dim, "rope.freq_base": base}
    if name == "gemma3":
        local, local_base = local_rope_parameters(fields)
        values["rope.freq_base_swa"] = local.number("rope_theta", local_base)

    def divisors(rotary: Rotary) -> np.ndarray:
        return (rope.default(dim, base) / rotary.inv_freq).astype(np.float32)

    kind = rope.rope_type(parameters)
    if kind == "llama3":
        return values, {"rope_freqs.weight": divisors(long)}
    if kind == "longrope":
        values |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": long.magnitude}
        return values, {"rope_factors_long.weight": divisors(long), "rope_factors_short.weight": divisors(short)}
    if kind in ("linear", "yarn"):
        factor = parameters.number("factor", fields.integer("max_position_embeddings") / original)
        values |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        values |= {
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": long.magnitude / rope.yarn_magnitude(factor),
            "rope.scaling.yarn_beta_fast": parameters.number("beta_fast", 32.0),
            "rope.scaling.yarn_beta_slow": parameters.number("beta_slow", 1.0),
        }
    return values, {}


def _rotary(checkpoint: Checkpoint, context: int) -> Rotary:
    """That of full attention, where layers differ, for sequences of a length."""
    config = ModelConfig.from_checkpoint(checkpoint, context)
    return next(
        (r for r, window in zip(config.rotaries, config.windows, strict=True) if not window), config.rotaries[0]
    )
