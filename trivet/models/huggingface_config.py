"""A model's configuration from a Hugging Face `config.json`, by the keys and defaults of transformers."""

from __future__ import annotations

from typing import Any

from trivet.errors import ModelError
from trivet.graph.ops import Rotary
from trivet.models import rope
from trivet.models.config import MAX_LAYERS, MAX_WIDTH, Experts, ModelConfig, vocab_size_of
from trivet.weights.fields import Fields
from trivet.weights.tensor import Checkpoint

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
    "phi3": "phi3",
}
"""Our name of each `model_type`."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_GEMMA = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "mixtral": {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 128},
    "gemma2": _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3": _GEMMA | {"rope_theta": 1e6, "max_position_embeddings": 131072},
    "phi3": {"rms_norm_eps": 1e-5},
}
"""What transformers supplies where a key is absent. One that is null stays so: no window, no cap."""
WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
"""The last layer of each period sees everything, the others a sliding window."""


def read(checkpoint: Checkpoint, max_context: int | None) -> ModelConfig:
    """Raises ModelError when the model type is unknown or a value is missing or absurd."""
    name, fields = text_config(checkpoint)
    if fields.boolean("use_bidirectional_attention", False):
        raise fields.error("use_bidirectional_attention", True, "false")

    gemma = name.startswith("gemma")
    layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    hidden = fields.integer("hidden_size", high=MAX_WIDTH)
    heads = fields.integer("num_attention_heads", high=MAX_WIDTH)
    head_dim = fields.integer("head_dim", hidden // heads, high=MAX_WIDTH)
    context = _context_length(fields)
    windows = _windows(fields, name, layers)
    rotary, local = _rotaries(fields, name, head_dim, max_context or context)
    scale_dim = fields.positive("query_pre_attn_scalar") if gemma else head_dim
    activation = "hidden_activation" if gemma else "hidden_act"
    return ModelConfig(
        architecture=name,
        vocab_size=fields.integer("vocab_size", vocab_size_of(checkpoint)),
        context_length=context,
        hidden_size=hidden,
        ffn_size=fields.integer("intermediate_size", high=2**24),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        rms_eps=fields.positive("rms_norm_eps", 1e-6),
        act=ACTIVATIONS[fields.choice(activation, ACTIVATIONS, "silu")],
        rotaries=tuple(local if window else rotary for window in windows),
        windows=windows,
        attention_scale=scale_dim**-0.5,
        attention_softcap=fields.number("attn_logit_softcapping", 0.0, low=0) if name == "gemma2" else 0.0,
        logit_softcap=fields.number("final_logit_softcapping", 0.0, low=0) if gemma else 0.0,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        tied="output.weight" not in checkpoint.tensors,
        experts=_experts(fields, name, layers),
    )


def text_config(checkpoint: Checkpoint) -> tuple[str, Fields]:
    """Our name of the architecture, and what `config.json` says of text, with defaults. Raises ModelError."""
    fields = Fields(checkpoint.path, checkpoint.metadata)
    model_type = fields.choice("model_type", ARCHITECTURES)
    method = fields.section("quantization_config").values.get("quant_method")
    if method is not None:
        raise ModelError(
            f"{checkpoint.path}: weights quantised with {method} are not supported; "
            "use the original checkpoint, or a GGUF file of it"
        )
    if model_type == "gemma3":
        fields = fields.section("text_config")
    name = ARCHITECTURES[model_type]
    return name, Fields(checkpoint.path, DEFAULTS.get(name, {}) | dict(fields.values))


def _windows(fields: Fields, name: str, layers: int) -> tuple[int, ...]:
    window = fields.integer("sliding_window", low=1) if name == "gemma3" else fields.integer("sliding_window", 0, low=0)
    if name.startswith("qwen") and not fields.boolean("use_sliding_window", False):
        window = 0
    kinds = fields.values.get("layer_types")
    if kinds is not None:
        known = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not known.issuperset(map(str, kinds)):
            raise fields.error("layer_types", kinds, f"{layers} of full_attention or sliding_attention")
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    if name in WINDOW_PERIOD:
        period = fields.integer("sliding_window_pattern", WINDOW_PERIOD[name])
        return tuple(window if (i + 1) % period else 0 for i in range(layers))
    first = fields.integer("max_window_layers", 28, low=0) if name in ("qwen2", "qwen3") else 0
    return tuple(window if i >= first else 0 for i in range(layers))


def _rotaries(fields: Fields, name: str, head_dim: int, max_context: int) -> tuple[Rotary, Rotary]:
    """The rotary embeddings of layers without and with a sliding window."""
    interleaved = name in ("llama", "mistral", "mixtral")
    partial = fields.number("partial_rotary_factor", 1.0, low=0, high=1)

    def read(parameters: Fields, base: float) -> Rotary:
        factor = parameters.number("partial_rotary_factor", partial, low=0, high=1)
        if interleaved and factor != 1:
            raise fields.error("partial_rotary_factor", factor, f"1 in a {name} model")
        dim = int(head_dim * factor)
        if dim < 2 or dim % 2:
            raise fields.error("head_dim", head_dim, f"a size of which an even part is rotated, not {dim}")
        return rope.from_huggingface(fields, parameters, dim, base, interleaved, max_context)

    theta = fields.number("rope_theta", 10000.0, low=2)
    rotary = read(rope_parameters(fields), theta)
    if name != "gemma3":
        return rotary, rotary
    return rotary, read(*local_rope_parameters(fields))


def rope_parameters(fields: Fields) -> Fields:
    """Those of full attention, where layers differ."""
    parameters = fields.section("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    return parameters.section("full_attention") if "full_attention" in parameters else parameters


def local_rope_parameters(fields: Fields) -> tuple[Fields, float]:
    """Those of sliding windows in Gemma 3, and their base where they do not say it."""
    base = fields.number("rope_local_base_freq", 10000.0, low=2)
    return fields.section("rope_parameters").section("sliding_attention"), base


def _context_length(fields: Fields) -> int:
    """YaRN is switched on by adding it to a configuration that keeps the original length."""
    context, parameters = fields.integer("max_position_embeddings"), rope_parameters(fields)
    if rope.rope_type(parameters) != "yarn":
        return context
    original = rope.original_context(fields, parameters)
    return max(context, int(original * parameters.number("factor", 1.0, low=1, high=2**20)))


def _experts(fields: Fields, name: str, layers: int) -> Experts:
    if name == "mixtral":
        return Experts(
            count=fields.integer("num_local_experts", high=MAX_WIDTH),
            used=fields.integer("num_experts_per_tok"),
            ffn_size=fields.integer("intermediate_size", high=2**24),
            normalize=True,
        )
    if name != "qwen3moe":
        return Experts()
    step = fields.integer("decoder_sparse_step", 1)
    dense = {i for i in range(layers) if (i + 1) % step}
    listed = fields.values.get("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(isinstance(i, int) for i in listed):
        raise fields.error("mlp_only_layers", listed, "a list of layer numbers")
    return Experts(
        count=fields.integer("num_local_experts" if "num_local_experts" in fields else "num_experts", high=MAX_WIDTH),
        used=fields.integer("num_experts_per_tok"),
        ffn_size=fields.integer("moe_intermediate_size", high=2**24),
        normalize=fields.boolean("norm_topk_prob", False),
        dense_layers=frozenset(dense | set(listed)),
    )
