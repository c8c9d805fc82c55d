"""Models of a well-known shape with random weights: Hugging Face folders, and GGUF files like them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from trivet.convert import as_gguf
from trivet.models.config import ModelConfig
from trivet.weights import open_checkpoint
from trivet.weights.formats import Format
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.mixes import MIXES, choose_formats

SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama in bfloat16."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int

    @property
    def product_weights(self) -> int:
        """Numbers that a token is multiplied by: all matrices but the embedding."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn) + self.hidden * self.vocab

    @property
    def cache_bytes(self) -> int:
        """Of one token's keys and values."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order of the files."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for i in range(self.layers):
            for name, shape in layer.items():
                yield f"model.layers.{i}.{name}.weight", shape
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)


SHAPES = {
    "llama-3.1-8b": Shape(4096, 32, 32, 8, 128, 14336, 128256),
    "llama-3.2-1b": Shape(2048, 16, 32, 8, 64, 8192, 128256),
    "tiny": Shape(256, 2, 4, 2, 64, 512, 1024),
}


def write_model(shape: Shape, folder: Path, device: str) -> None:
    """Draw the weights on `device` and save them in shards of up to SHARD_BYTES."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device).manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}

    def save() -> None:
        file = f"model-{len(set(where.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, size in shape.tensors():
        if len(size) == 1:
            tensor = torch.ones(size, dtype=torch.bfloat16)
        else:
            values = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
            tensor = (values * size[1] ** -0.5).bfloat16().cpu()
        if shard and sum(one.nbytes for one in shard.values()) + tensor.nbytes > SHARD_BYTES:
            save()
        shard[name] = tensor
    save()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    bytes_alone = {char: index for index, char in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(bytes_alone, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(shape.config()))  # The last: where it is, the model is whole.


HALVES = {Format.Q4_1: (0, 2), Format.Q5_1: (0, 2), Format.Q4_K: (0, 2), Format.Q5_K: (0, 2), Format.Q6_K: (208,)}
"""Where a block has float16 numbers, where that is not at its beginning alone."""


def random_blocks(fmt: Format, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, row bytes]: any integers, and scales that make weights of about 1 / sqrt(columns)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // fmt.block_size, fmt.block_bytes), np.uint8)
    if fmt is Format.MXFP4:
        blocks[..., 0] = rng.integers(118, 122, blocks.shape[:-1])
    for at in () if fmt is Format.MXFP4 else HALVES.get(fmt, (0,)):
        scales = rng.standard_normal(blocks.shape[:-1]) / (fmt.block_size * columns**0.5)
        blocks[..., at : at + 2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def write_quantized(folder: Path, path: Path, mix: str) -> None:
    """A model like that in `folder`, of random blocks in the formats of a mix: to quantise its own weights takes
    minutes, and speed does not depend on them."""
    source = as_gguf(open_checkpoint(folder))
    config = ModelConfig.from_checkpoint(source)
    groups = config.num_heads // config.num_kv_heads
    formats = choose_formats(source.tensors, mix, config.num_layers, 0, groups)
    infos = [replace(info, format=formats[name]) for name, info in source.tensors.items()]
    some: dict[tuple[Format, int], np.ndarray] = {}
    with GGUFWriter(path, {**source.metadata, "general.file_type": MIXES[mix][1]}, infos) as writer:
        for info in infos:
            if info.format is Format.F32:
                writer.write(info.name, np.ones(info.shape, np.float32))
            else:
                rows, columns = info.shape
                kind = info.format, columns
                some.setdefault(kind, random_blocks(info.format, 1024, columns))
                for start in range(0, rows, 1024):
                    writer.write(info.name, some[kind][: rows - start])
