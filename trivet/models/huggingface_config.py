"""A model's configuration from a Hugging Face `config.json`, by the keys and defaults of transformers."""

from __future__ import annotations

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
DEFAULT_HEAD_DIM = {"qwen3": 128, "gemma2": 256, "gemma3": 256}
DEFAULT_EPS = {"phi3": 1e-5, "mixtral": 1e-5}
DEFAULT_THETA = {"mixtral": 1e6, "gemma3": 1e6}
DEFAULT_WINDOW = {"mistral": 4096, "gemma2": 4096, "gemma3": 4096}
WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
"""The last layer of each period sees everything, the others a sliding window."""


def read(checkpoint: Checkpoint, max_context: int | None) -> ModelConfig:
    """Raises ModelError when the model type is unknown or a value is missing or absurd."""
    fields = Fields(checkpoint.path, checkpoint.metadata)
    name = fields.choice("model_type", ARCHITECTURES)
    if checkpoint.metadata["model_type"] == "gemma3":
        fields = fields.section("text_config")
    method = fields.section("quantization_config").values.get("quant_method")
    if method is not None:
        raise ModelError(
            f"{checkpoint.path}: weights quantised with {method} are not supported; "
            "use the original checkpoint, or a GGUF file of it"
        )
    if fields.boolean("use_bidirectional_attention", False):
        raise fields.error("use_bidirectional_attention", True, "false")

    gemma = name.startswith("gemma")
    layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    hidden = fields.integer("hidden_size", high=MAX_WIDTH)
    heads = fields.integer("num_attention_heads", high=MAX_WIDTH)
    head_dim = fields.integer("head_dim", DEFAULT_HEAD_DIM.get(name, hidden // heads), high=MAX_WIDTH)
    context = fields.integer("max_position_embeddings")
    windows = _windows(fields, name, layers)
    rotary, local = _rotaries(fields, name, head_dim, max_context or context)
    scale_dim = fields.positive("query_pre_attn_scalar", 256.0) if gemma else head_dim
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
        rms_eps=fields.positive("rms_norm_eps", DEFAULT_EPS.get(name, 1e-6)),
        act=fields.choice(activation, ACTIVATIONS, "gelu_pytorch_tanh" if gemma else "silu"),
        rotaries=tuple(local if window else rotary for window in windows),
        windows=windows,
        attention_scale=scale_dim**-0.5,
        attention_softcap=_softcap(fields, "attn_logit_softcapping") if name == "gemma2" else 0.0,
        logit_softcap=_softcap(fields, "final_logit_softcapping") if gemma else 0.0,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        tied="output.weight" not in checkpoint.tensors,
        experts=_experts(fields, name, layers),
    )


def _softcap(fields: Fields, key: str) -> float:
    return fields.number(key, 0.0, low=0)


def _windows(fields: Fields, name: str, layers: int) -> tuple[int, ...]:
    window = fields.integer("sliding_window", 0, low=0)
    if "sliding_window" not in fields.values:
        window = DEFAULT_WINDOW.get(name, 0)
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
    theta = fields.number("rope_theta", DEFAULT_THETA.get(name, 10000.0), low=1.0)
    interleaved = name in ("llama", "mistral", "mixtral")
    key = "rope_parameters" if "rope_parameters" in fields else "rope_scaling"
    parameters = fields.section(key)
    nested = "full_attention" in parameters or "sliding_attention" in parameters
    partial = fields.number("partial_rotary_factor", 1.0, low=0, high=1)

    def read(section: Fields, base: float) -> Rotary:
        dim = int(head_dim * section.number("partial_rotary_factor", partial, low=0, high=1))
        if dim < 2 or dim % 2:
            raise fields.error("head_dim", head_dim, f"a size of which an even part is rotated, not {dim}")
        return rope.from_huggingface(fields, section, dim, base, interleaved, max_context)

    rotary = read(parameters.section("full_attention") if nested else parameters, theta)
    if name != "gemma3":
        return rotary, rotary
    base = fields.number("rope_local_base_freq", 10000.0, low=1.0)
    return rotary, read(parameters.section("sliding_attention"), base)


def _experts(fields: Fields, name: str, layers: int) -> Experts:
    if name == "mixtral":
        return Experts(
            count=fields.integer("num_local_experts", 8, high=MAX_WIDTH),
            used=fields.integer("num_experts_per_tok", 2),
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
        used=fields.integer("num_experts_per_tok", 8),
        ffn_size=fields.integer("moe_intermediate_size", 768, high=2**24),
        normalize=fields.boolean("norm_topk_prob", False),
        dense_layers=frozenset(dense | set(listed)),
    )
