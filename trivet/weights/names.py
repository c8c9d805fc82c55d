"""A Hugging Face folder seen under GGUF's names and layouts, so that one graph serves both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivet.errors import ModelError
from trivet.weights.fields import Fields
from trivet.weights.formats import Format
from trivet.weights.safetensors import SafetensorsFolder
from trivet.weights.tensor import Tensor, TensorInfo, to_float32

MODEL = {"embed_tokens": "token_embd", "norm": "output_norm"}

LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QWEN3 = LLAMA | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
GEMMA2 = LLAMA | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMA3 = QWEN3 | GEMMA2
PHI3 = LLAMA | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
FUSED_EXPERTS = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
MIXTRAL = (
    LLAMA
    | FUSED_EXPERTS
    | {
        "block_sparse_moe.gate": "ffn_gate_inp",
        "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
        "block_sparse_moe.experts.*.w3": "ffn_up_exps",
        "block_sparse_moe.experts.*.w2": "ffn_down_exps",
    }
)
QWEN3_MOE = (
    QWEN3
    | FUSED_EXPERTS
    | {
        "mlp.experts.*.gate_proj": "ffn_gate_exps",
        "mlp.experts.*.up_proj": "ffn_up_exps",
        "mlp.experts.*.down_proj": "ffn_down_exps",
    }
)
"""Names within a layer, `.weight` or `.bias` left off; `*` is the number of an expert."""

FAMILIES: dict[str, Mapping[str, str]] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": MIXTRAL,
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3,
    "phi3": PHI3,
}
"""The table of each `model_type`."""

INTERLEAVED = ("llama", "mistral", "mixtral")
"""Their rows of q and k are in half-split rotary order in a folder, interleaved in GGUF."""

HARMLESS = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that older versions of transformers saved, computed anew from the configuration."""
VISION = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")
"""The parts of a Gemma 3 that text does not pass."""
TEXT = re.compile(r"^(model\.language_model|language_model\.model|model)\.")
NAME = re.compile(r"^(?:layers\.(?P<layer>\d+)\.)?(?P<path>.+?)(?:\.(?P<kind>weight|bias))?$", re.DOTALL)
EXPERT = re.compile(r"(?<=\.experts\.)\d{1,6}(?=\.)")


@dataclass(slots=True)
class Source:
    """The tensors of the folder that one of ours is made from: itself, or its experts by number."""

    parts: dict[int, str]
    stacked: bool


class HuggingFaceCheckpoint:
    """A Checkpoint over a Hugging Face folder. Vectors and routers become F32, as they are in GGUF files.

    Raises ModelError when the folder holds a tensor that its model type has no place for.
    """

    def __init__(self, folder: SafetensorsFolder) -> None:
        self.path = folder.path
        self.metadata: Mapping[str, Any] = folder.config
        self._folder = folder
        fields = Fields(folder.path, folder.config)
        self._model_type = fields.choice("model_type", FAMILIES)
        self._sources = self._map_names(tied=fields.boolean("tie_word_embeddings", self._gemma))
        self.tensors: Mapping[str, TensorInfo] = {name: self._info(name) for name in self._sources}

    def load(self, name: str) -> Tensor:
        """Map one tensor, or build it where GGUF's layout differs. Raises ModelError when it is missing."""
        if name not in self._sources:
            raise ModelError(f"{self.path}: tensor {name} is missing")
        info, source = self.tensors[name], self._sources[name]
        loaded = [self._folder.load(part) for _, part in sorted(source.parts.items())]
        data = np.stack([t.data for t in loaded]) if source.stacked else loaded[0].data
        if info.format is not loaded[0].info.format:
            data = to_float32(loaded[0]).view(np.uint8)
        if self._gemma and name.endswith("norm.weight"):
            data = (data.view(np.float32) + 1).view(np.uint8)
        if self._model_type in INTERLEAVED and re.search(r"\.attn_[qk]\.", name):
            data = self._interleave(data)
        return Tensor(info, data)

    @property
    def _gemma(self) -> bool:
        return self._model_type.startswith("gemma")

    def _map_names(self, tied: bool) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        unknown = []
        for name in self._folder.tensors:
            if HARMLESS.search(name) or (self._model_type == "gemma3" and VISION.match(name)):
                continue
            if name.endswith("lm_head.weight"):
                if not tied:
                    sources["output.weight"] = Source({0: name}, stacked=False)
                continue
            ours, expert = _translate(name, FAMILIES[self._model_type])
            if ours is None:
                unknown.append(name)
                continue
            source = sources.setdefault(ours, Source({}, stacked=expert is not None))
            if (expert or 0) in source.parts:
                raise ModelError(f"{self.path}: {source.parts[expert or 0]} and {name} are both {ours}")
            source.parts[expert or 0] = name
        if unknown:
            shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ModelError(f"{self.path}: model type {self._model_type} has no place for the tensors {shown}")
        if not tied and "output.weight" not in sources:
            raise ModelError(f"{self.path}: tensor lm_head.weight is missing, and tie_word_embeddings is false")
        return sources

    def _info(self, name: str) -> TensorInfo:
        source = self._sources[name]
        infos = {i: self._folder.tensors[part] for i, part in source.parts.items()}
        first = next(iter(infos.values()))
        if not source.stacked:
            widened = len(first.shape) == 1 or name.endswith("ffn_gate_inp.weight")
            return TensorInfo(name, first.shape, Format.F32 if widened else first.format)
        for i in range(max(infos) + 1):
            if i not in infos:
                raise ModelError(f"{self.path}: {name} lacks expert {i} of {max(infos) + 1}")
            if (infos[i].shape, infos[i].format) != (first.shape, first.format):
                raise ModelError(
                    f"{self.path}: tensor {infos[i].name} is {infos[i].format.name} {list(infos[i].shape)}, "
                    f"but {first.name} is {first.format.name} {list(first.shape)}"
                )
        return TensorInfo(name, (len(infos), *first.shape), first.format)

    def _interleave(self, data: np.ndarray) -> np.ndarray:
        """Within each head, row i of the first half comes before row i of the second."""
        fields = Fields(self.path, self.metadata)
        heads = fields.integer("num_attention_heads")
        head_dim = fields.integer("head_dim", fields.integer("hidden_size") // heads, low=2)
        rows = data.view(np.float32) if data.ndim == 1 else data
        if len(rows) % head_dim or head_dim % 2:
            raise fields.error("head_dim", head_dim, f"an even divisor of the {len(rows)} rows of q or k")
        halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape).view(np.uint8)


def _translate(name: str, family: Mapping[str, str]) -> tuple[str | None, int | None]:
    """GGUF's name, if there is one, and the number of the expert in the name."""
    match = NAME.match(TEXT.sub("", name))
    if match is None:
        return None, None
    path, kind = match["path"], match["kind"] or "weight"
    if match["layer"] is None:
        return (f"{MODEL[path]}.{kind}" if path in MODEL else None), None
    expert = EXPERT.search(path)
    ours = family.get(EXPERT.sub("*", path))
    return (f"blk.{match['layer']}.{ours}.{kind}" if ours else None), (int(expert[0]) if expert else None)
