"""Rotary embeddings: frequencies and magnitude under each scaling, from GGUF metadata or a `config.json`."""

from __future__ import annotations

import math

import numpy as np

from trivet.errors import ModelError
from trivet.graph.ops import Rotary
from trivet.weights.fields import Fields
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint

Array = np.ndarray


def default(dim: int, base: float) -> Array:
    """base^(-2i/dim) for i < dim/2, float64."""
    return base ** -(np.arange(0, dim, 2) / dim)


def llama3(inv_freq: Array, factor: float, low_freq_factor: float, high_freq_factor: float, original: int) -> Array:
    """Llama 3.1: wavelengths over original/low_freq_factor are stretched by `factor`, those under
    original/high_freq_factor kept, and the rest blended.
    """
    turns = original * inv_freq / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return inv_freq * (kept + (1 - kept) / factor)


def yarn(
    inv_freq: Array,
    base: float,
    factor: float,
    original: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Array:
    """YaRN (arXiv 2309.00071): dimensions that turn more than beta_fast times in `original` tokens are kept,
    those that turn less than beta_slow times stretched by `factor`, and the rest blended.
    """
    dim = 2 * len(inv_freq)

    def dimension(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    stretched = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return inv_freq * (1 - stretched + stretched / factor)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def longrope_magnitude(factor: float, original: int) -> float:
    """LongRoPE (arXiv 2402.13753) for a context stretched `factor` times."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def rotary(inv_freq: Array, interleaved: bool, magnitude: float = 1.0) -> Rotary:
    return Rotary(tuple(float(f) for f in inv_freq), interleaved, magnitude)


def from_gguf(
    checkpoint: Checkpoint, fields: Fields, dim: int, interleaved: bool, context: int, max_context: int
) -> Rotary:
    """`context` is the model's own limit in tokens, `max_context` the longest sequence to be run."""
    base = fields.number("rope.freq_base", 10000.0, low=2)
    original = fields.integer("rope.scaling.original_context_length", context, low=2)
    scaling = fields.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 0.0, low=0), low=0) or 1.0
    if scaling == "none":
        factor = 1.0
    magnitude = fields.positive("rope.scaling.attn_factor", 1.0)

    inv_freq = default(dim, base)
    length = "long" if max_context > original else "short"
    for name in (f"rope_factors_{length}.weight", "rope_freqs.weight"):
        if name in checkpoint.tensors:
            inv_freq = inv_freq / _factors(checkpoint, name, dim // 2)
            break
    if scaling != "yarn":
        return rotary(inv_freq / factor, interleaved, magnitude)
    inv_freq = yarn(
        inv_freq,
        base,
        factor,
        original,
        fields.positive("rope.scaling.yarn_beta_fast", 32.0),
        fields.positive("rope.scaling.yarn_beta_slow", 1.0),
    )
    return rotary(inv_freq, interleaved, magnitude * yarn_magnitude(factor))


def from_huggingface(
    fields: Fields, parameters: Fields, dim: int, base: float, interleaved: bool, max_context: int
) -> Rotary:
    """`parameters` is the `rope_parameters` (or older `rope_scaling`) of the layers concerned, `fields` all
    of `config.json`; `base` stands in where `parameters` has none.
    """
    base = parameters.number("rope_theta", base, low=2)
    context = fields.integer("max_position_embeddings")
    original = original_context(fields, parameters)
    inv_freq = default(dim, base)
    kind = rope_type(parameters)
    if kind == "default":
        return rotary(inv_freq, interleaved)
    if kind == "longrope":
        factor = parameters.positive("factor", context / original)
        factors = parameters.numbers("long_factor" if max_context > original else "short_factor", dim // 2)
        magnitude = parameters.positive("attention_factor", longrope_magnitude(factor, original))
        return rotary(inv_freq / factors, interleaved, magnitude)
    if kind == "yarn":
        factor = parameters.positive("factor", context / original)
        mscale, mscale_all = (parameters.number(key, 0.0, low=0) for key in ("mscale", "mscale_all_dim"))
        magnitude = yarn_magnitude(factor)
        if mscale and mscale_all:
            magnitude = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all)
        beta_fast = parameters.positive("beta_fast", 32.0)
        beta_slow = parameters.positive("beta_slow", 1.0)
        truncate = parameters.boolean("truncate", True)
        inv_freq = yarn(inv_freq, base, factor, original, beta_fast, beta_slow, truncate)
        return rotary(inv_freq, interleaved, parameters.positive("attention_factor", magnitude))
    factor = parameters.positive("factor")
    if kind == "linear":
        return rotary(inv_freq / factor, interleaved)
    low, high = parameters.positive("low_freq_factor"), parameters.positive("high_freq_factor")
    if low >= high:
        raise parameters.error("high_freq_factor", high, f"more than low_freq_factor, {low}")
    return rotary(llama3(inv_freq, factor, low, high, original), interleaved)


def rope_type(parameters: Fields) -> str:
    """The kind of scaling, under its present name."""
    key = "rope_type" if "rope_type" in parameters else "type"
    kind = parameters.choice(key, ("default", "linear", "llama3", "yarn", "longrope", "su"), "default")
    return "longrope" if "long_factor" in parameters else kind


def original_context(fields: Fields, parameters: Fields) -> int:
    """Tokens that the model was trained on before its context was stretched."""
    key = "original_max_position_embeddings"
    context = fields.integer("max_position_embeddings")
    return fields.integer(key, parameters.integer(key, context, low=2), low=2)


def _factors(checkpoint: Checkpoint, name: str, count: int) -> Array:
    """A vector of divisors of the inverse frequencies."""
    info = checkpoint.tensors[name]
    if info.shape != (count,) or info.format is not Format.F32:
        raise ModelError(
            f"{checkpoint.path}: tensor {name} is {info.format.name} {list(info.shape)}, expected F32 [{count}]"
        )
    factors = np.asarray(checkpoint.load(name).data).view(np.float32).astype(np.float64)
    if not np.isfinite(factors).all() or not (factors > 0).all():
        raise ModelError(f"{checkpoint.path}: tensor {name} holds values that are not finite and above 0")
    return factors
