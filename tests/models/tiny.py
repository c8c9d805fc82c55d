"""Tiny random models of every architecture: weights from a seed, as a Hugging Face folder and as a GGUF file.

The GGUF side is made by the `gguf` package's own names and llama.cpp's conventions, not by our code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

VOCAB = 96
PROMPT = [int(t) for t in np.random.default_rng(40).integers(0, VOCAB, 40)]


@dataclass(frozen=True)
class Tiny:
    """`config` is a `config.json`; `gguf_fields` are metadata beyond what follows from it.

    `llamacpp`: llama.cpp computes this model as transformers does. Without `gguf_arch`, GGUF cannot express it.
    """

    name: str
    config: dict[str, Any]
    gguf_arch: str
    gguf_fields: dict[str, Any] = field(default_factory=dict)
    llamacpp: bool = True
    seed: int = 0

    def __str__(self) -> str:
        return self.name

    def weights(self) -> dict[str, np.ndarray]:
        """Float32 tensors by Hugging Face's names, those of every expert apart."""
        rng = np.random.default_rng([self.seed, *self.name.encode()])
        return {name: _random(rng, name, shape, self.config) for name, shape in _shapes(self.config)}

    def write_folder(self, path: Path) -> Path:
        path.mkdir()
        (path / "config.json").write_text(json.dumps(self.config))
        save_file(self.weights(), path / "model.safetensors")
        return path

    def write_gguf(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.gguf_arch)
        for key, value in self.metadata().items():
            _add(writer, key, value)
        for name, tensor in self.gguf_tensors().items():
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def metadata(self) -> dict[str, Any]:
        c = self.config
        head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        keys = {
            "context_length": c["max_position_embeddings"],
            "embedding_length": c["hidden_size"],
            "block_count": c["num_hidden_layers"],
            "feed_forward_length": c["intermediate_size"],
            "attention.head_count": c["num_attention_heads"],
            "attention.head_count_kv": c["num_key_value_heads"],
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
            "rope.dimension_count": int(head_dim * c.get("partial_rotary_factor", 1)),
            "rope.freq_base": float(c["rope_theta"]),
            "vocab_size": VOCAB,
        } | self.gguf_fields
        if experts := c.get("num_local_experts", c.get("num_experts")):
            keys |= {"expert_count": experts, "expert_used_count": c["num_experts_per_tok"]}
        if "moe_intermediate_size" in c:
            keys["expert_feed_forward_length"] = c["moe_intermediate_size"]
        return {f"{self.gguf_arch}.{key}": value for key, value in keys.items()} | {"tokenizer.ggml.model": "none"}

    def gguf_tensors(self) -> dict[str, np.ndarray]:
        c = self.config
        arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == self.gguf_arch)
        names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
        tensors: dict[str, np.ndarray] = {}
        experts: dict[str, list[np.ndarray]] = {}
        for name, tensor in self.weights().items():
            if ".experts." in name:
                prefix, _, matrix = name.removesuffix(".weight").rsplit(".", 2)
                matrix = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(matrix, matrix)
                kind = matrix.removesuffix("_proj")
                experts.setdefault(f"blk.{prefix.split('.')[2]}.ffn_{kind}_exps.weight", []).append(tensor)
                continue
            ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert ours is not None, name
            if self.gguf_arch == "llama" and ("q_proj" in name or "k_proj" in name):
                heads = c["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
                halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
            if self.gguf_arch.startswith("gemma") and name.endswith("norm.weight"):
                tensor = tensor + 1
            tensors[ours] = tensor
        scaling = c.get("rope_scaling") or {}
        if scaling.get("rope_type") == "llama3":
            tensors["rope_freqs.weight"] = _llama3_factors(c, scaling)
        if scaling.get("rope_type") == "longrope":
            tensors["rope_factors_long.weight"] = np.array(scaling["long_factor"], np.float32)
            tensors["rope_factors_short.weight"] = np.array(scaling["short_factor"], np.float32)
        return tensors | {name: np.stack(parts) for name, parts in experts.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _llama3_factors(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> np.ndarray:
    """What llama.cpp's converter stores for Llama 3.1: divisors of the frequencies."""
    dim, factors = config["head_dim"], []
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _shapes(c: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    kind, hidden, ffn = c["model_type"], c["hidden_size"], c["intermediate_size"]
    head_dim = c.get("head_dim") or hidden // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (VOCAB, hidden)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCAB, hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        if kind.startswith("gemma"):
            yield layer + "pre_feedforward_layernorm.weight", (hidden,)
            yield layer + "post_feedforward_layernorm.weight", (hidden,)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            yield layer + "self_attn.q_norm.weight", (head_dim,)
            yield layer + "self_attn.k_norm.weight", (head_dim,)
        if kind == "phi3":
            yield layer + "self_attn.qkv_proj.weight", (q + 2 * kv, hidden)
        else:
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                yield layer + f"self_attn.{name}_proj.weight", (rows, hidden)
                if kind == "qwen2" or c.get("attention_bias"):
                    yield layer + f"self_attn.{name}_proj.bias", (rows,)
        yield layer + "self_attn.o_proj.weight", (hidden, q)
        if c.get("attention_bias"):
            yield layer + "self_attn.o_proj.bias", (hidden,)
        if kind == "mixtral":
            moe = layer + "block_sparse_moe."
            yield moe + "gate.weight", (c["num_local_experts"], hidden)
            for e in range(c["num_local_experts"]):
                yield moe + f"experts.{e}.w1.weight", (ffn, hidden)
                yield moe + f"experts.{e}.w2.weight", (hidden, ffn)
                yield moe + f"experts.{e}.w3.weight", (ffn, hidden)
        elif kind == "qwen3_moe" and i not in c["mlp_only_layers"]:
            rows = c["moe_intermediate_size"]
            yield layer + "mlp.gate.weight", (c["num_experts"], hidden)
            for e in range(c["num_experts"]):
                yield layer + f"mlp.experts.{e}.gate_proj.weight", (rows, hidden)
                yield layer + f"mlp.experts.{e}.up_proj.weight", (rows, hidden)
                yield layer + f"mlp.experts.{e}.down_proj.weight", (hidden, rows)
        elif kind == "phi3":
            yield layer + "mlp.gate_up_proj.weight", (2 * ffn, hidden)
            yield layer + "mlp.down_proj.weight", (hidden, ffn)
        else:
            for name, shape in (("gate", (ffn, hidden)), ("up", (ffn, hidden)), ("down", (hidden, ffn))):
                yield layer + f"mlp.{name}_proj.weight", shape
                if c.get("mlp_bias"):
                    yield layer + f"mlp.{name}_proj.bias", shape[:1]


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> np.ndarray:
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return np.float32(0 if config["model_type"].startswith("gemma") else 1) + np.float32(0.2) * x
    if name.endswith(".bias"):
        return np.float32(0.3) * x
    # A tied table that dwarfed the layers' output would repeat the last token for ever.
    sharpness = 0.1 if "embed_tokens" in name and config["tie_word_embeddings"] else 1.5
    return x * np.float32(sharpness * shape[-1] ** -0.5)


def _config(model_type: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    } | changes


_SCALING = {"original_max_position_embeddings": 32, "factor": 4.0}
_LLAMA3 = _SCALING | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.02, 1.1, 1.2, 1.3, 1.4],
    "long_factor": [1.0, 1.3, 2.0, 3.5, 5.0, 7.0],
}
_PHI_LONG = {
    "hidden_size": 64,
    "partial_rotary_factor": 0.75,
    "rope_scaling": _LONGROPE,
}
_GEMMA = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
}
_GEMMA2 = _GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 0.2, "num_hidden_layers": 4}
_GEMMA2_FIELDS = {
    "attention.sliding_window": 8,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 0.2,
}
_GEMMA3 = _GEMMA | {"num_hidden_layers": 7, "rope_theta": 1e6, "rope_local_base_freq": 10000.0}
_QWEN3_MOE = {
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}

MODELS = [
    Tiny("llama", _config("llama"), "llama", seed=1),
    Tiny("llama3", _config("llama", head_dim=32, tie_word_embeddings=True, rope_scaling=_LLAMA3), "llama"),
    Tiny(
        "llama-linear",
        _config("llama", rope_scaling={"type": "linear", "factor": 4.0}),
        "llama",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        seed=7,
    ),
    Tiny(
        "llama-yarn",
        _config("llama", head_dim=32, rope_scaling=_SCALING | {"rope_type": "yarn"}),
        "llama",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    Tiny("llama-bias", _config("llama", attention_bias=True, mlp_bias=True), "llama"),
    Tiny(
        "mistral",
        _config("mistral", head_dim=32, sliding_window=8),
        "llama",
        {"attention.sliding_window": 8},
        llamacpp=False,
        seed=7,
    ),
    Tiny("mixtral", _config("mixtral", num_local_experts=4, num_experts_per_tok=2), "llama", seed=4),
    Tiny("qwen2", _config("qwen2", tie_word_embeddings=True), "qwen2", seed=1),
    Tiny(
        "qwen2-window",
        _config("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "qwen2",
        {"attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True, True]},
        llamacpp=False,
        seed=0,
    ),
    Tiny(
        "qwen2-yarn",
        _config("qwen2", rope_theta=1e6, rope_scaling=_SCALING | {"type": "yarn"}),
        "qwen2",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
        seed=1,
    ),
    Tiny("qwen3", _config("qwen3", head_dim=32), "qwen3"),
    Tiny("qwen3moe", _config("qwen3_moe", **_QWEN3_MOE), "qwen3moe", seed=2),
    Tiny(
        "qwen3moe-raw",
        _config("qwen3_moe", **_QWEN3_MOE | {"norm_topk_prob": False}),
        "qwen3moe",
        {"expert_weights_norm": False},
        llamacpp=False,
    ),
    Tiny("qwen3moe-dense", _config("qwen3_moe", **_QWEN3_MOE | {"mlp_only_layers": [1]}), "", llamacpp=False, seed=5),
    Tiny("gemma2", _config("gemma2", **_GEMMA2), "gemma2", _GEMMA2_FIELDS, seed=8),
    Tiny(
        "gemma2-scalar",
        _config("gemma2", **_GEMMA2 | {"query_pre_attn_scalar": 100}),
        "gemma2",
        _GEMMA2_FIELDS | {"attention.scale": 0.1},
        llamacpp=False,
        seed=2,
    ),
    Tiny(
        "gemma3",
        _config("gemma3_text", **_GEMMA3),
        "gemma3",
        {"attention.sliding_window": 8},
    ),
    Tiny(
        "gemma3-linear",
        _config("gemma3_text", **_GEMMA3, rope_scaling={"rope_type": "linear", "factor": 8.0}),
        "gemma3",
        {
            "attention.sliding_window": 8,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        seed=1,
    ),
    Tiny("phi3", _config("phi3"), "phi3", seed=6),
    Tiny(
        "phi3-window",
        _config("phi3", sliding_window=8),
        "phi3",
        {"attention.sliding_window": 8},
        llamacpp=False,
        seed=1,
    ),
    Tiny(
        "phi3-long",
        _config("phi3", original_max_position_embeddings=32, **_PHI_LONG),
        "phi3",
        {
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(4) / math.log(32)),
        },
    ),
    Tiny(
        "phi3-short",
        _config("phi3", max_position_embeddings=512, original_max_position_embeddings=512, **_PHI_LONG),
        "phi3",
        {"rope.scaling.original_context_length": 512},
    ),
]
