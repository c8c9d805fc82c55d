"""What a model holds and needs, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trivet.engine.config import join_cache_dtype, split_cache_dtype
from trivet.errors import ModelError
from trivet.models.config import ModelConfig
from trivet.models.registry import build
from trivet.runtime.model import own_type
from trivet.text.tokenizer import Tokenizer
from trivet.weights import open_checkpoint
from trivet.weights.check import bad_tensors
from trivet.weights.hub import resolve
from trivet.weights.tensor import Checkpoint

CACHE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "fp8": 1}


def describe(
    model: str | None, context: int | None, cache_dtype: str, tensors: bool, check: bool = False
) -> dict[str, Any]:
    """All that `trivet inspect` shows, ready for JSON. What cannot be read or run here has its reason in `problem`.

    context: tokens to size the KV cache for; None is the model's own length. tensors: list each. check: list the
    tensors with weights that are not finite.

    Raises ModelError when the file itself cannot be read.
    """
    checkpoint = open_checkpoint(resolve(model))
    metadata = checkpoint.metadata
    found: dict[str, Any] = {
        "path": checkpoint.path,
        "name": text(metadata, "general.name", "_name_or_path"),
        "architecture": text(metadata, "general.architecture", "model_type"),
        "weights": weights(checkpoint),
        "config": None,
        "memory": None,
        "tokenizer": None,
        "chat_template": None,
        "problems": [],
    }
    try:
        config = ModelConfig.from_checkpoint(checkpoint)
        found["config"] = sizes(config)
        found["memory"] = memory(checkpoint, config, context, cache_dtype)
        build(config, checkpoint)
    except ModelError as error:
        found["problems"].append(str(error))
    try:
        tokenizer = Tokenizer.load(checkpoint.path)
        kind = [text(metadata, f"tokenizer.ggml.{key}") for key in ("model", "pre")]
        found["tokenizer"] = {"kind": " ".join(filter(None, kind)) or "tokenizer.json", **special_tokens(tokenizer)}
        found["chat_template"] = tokenizer.chat_template
    except ModelError as error:
        found["problems"].append(str(error))
    if check:
        found["not_finite"] = [asdict(bad) for bad in bad_tensors(checkpoint)]
    if tensors:
        found["tensors"] = [
            {
                "name": info.name,
                "shape": list(info.shape),
                "format": info.format.name,
                "bytes": info.num_bytes,
            }
            for info in checkpoint.tensors.values()
        ]
    return found


def text(metadata: Mapping[str, Any], *keys: str) -> str | None:
    """What the first of these keys says that has a text."""
    return next((value for key in keys if isinstance(value := metadata.get(key), str)), None)


def weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """Tensors, parameters and bytes: in all, and of each format, the biggest first."""
    total = {"tensors": 0, "parameters": 0, "bytes": 0}
    formats: dict[str, dict[str, int]] = {}
    for info in checkpoint.tensors.values():
        for entry in (total, formats.setdefault(info.format.name, dict.fromkeys(total, 0))):
            entry["tensors"] += 1
            entry["parameters"] += math.prod(info.shape)
            entry["bytes"] += info.num_bytes
    return {**total, "formats": dict(sorted(formats.items(), key=lambda item: -item[1]["bytes"]))}


def sizes(config: ModelConfig) -> dict[str, Any]:
    """The numbers that people compare models by."""
    found: dict[str, Any] = {
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_size": config.ffn_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "sliding_window": max(config.windows, default=0) or None,
        "tied_embeddings": config.tied,
    }
    if config.experts.count:
        found["experts"] = config.experts.count
        found["experts_used"] = config.experts.used
        found["expert_ffn_size"] = config.experts.ffn_size
    return found


def memory(checkpoint: Checkpoint, config: ModelConfig, context: int | None, dtype: str) -> dict[str, Any]:
    """Bytes of the weights, and of the keys and values of one sequence of `context` tokens."""
    infos = checkpoint.tensors.values()
    types = [own_type(checkpoint) if name == "auto" else name for name in split_cache_dtype(dtype)]
    context = context or config.context_length
    token = math.ceil(config.num_layers * config.kv_size * sum(CACHE_BYTES[name] for name in types))
    weight_bytes = sum(info.num_bytes for info in infos)
    return {
        "weight_bytes": weight_bytes,
        "kv_cache_dtype": join_cache_dtype(*types),
        "kv_bytes_per_token": token,
        "context": context,
        "kv_bytes": token * context,
        "total_bytes": weight_bytes + token * context,
    }


def special_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """Its size, and the tokens that begin and end a text."""

    def named(token: int) -> dict[str, Any]:
        return {"id": token, "text": tokenizer.token_text(token)}

    return {
        "vocab_size": tokenizer.vocab_size,
        "bos": None if tokenizer.bos_id is None else named(tokenizer.bos_id),
        "eos": [named(token) for token in tokenizer.eos_ids],
    }
