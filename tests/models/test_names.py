"""Hugging Face folders under GGUF's names: the same tensors as in a GGUF file, however they are spelt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import reference
from tests.models.memory import MemoryCheckpoint
from tests.models.tiny import MODELS, PROMPT, Tiny
from trivet.errors import ModelError
from trivet.models.config import ModelConfig
from trivet.models.registry import ROPE_FACTORS, build
from trivet.weights import open_checkpoint
from trivet.weights.formats import Format
from trivet.weights.names import HuggingFaceCheckpoint
from trivet.weights.tensor import Checkpoint

TINY = {tiny.name: tiny for tiny in MODELS}


def checkpoint(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> HuggingFaceCheckpoint:
    return HuggingFaceCheckpoint(MemoryCheckpoint(config, weights))


def logits(model: Checkpoint) -> np.ndarray:
    graph = build(ModelConfig.from_checkpoint(model), model)
    return reference.run(graph, reference.Weights(model), PROMPT)


@pytest.mark.parametrize("tiny", [m for m in MODELS if m.gguf_arch], ids=str)
def test_folder_is_its_gguf(tiny: Tiny, tmp_path: Path) -> None:
    """Names, permutations and sums are those of the `gguf` package and of llama.cpp's converter."""
    folder = checkpoint(tiny.config, tiny.weights())
    file = open_checkpoint(tiny.write_gguf(tmp_path / "model.gguf"))
    assert folder.tensors == {name: info for name, info in file.tensors.items() if name not in ROPE_FACTORS}
    assert all(np.array_equal(folder.load(name).data, file.load(name).data) for name in folder.tensors)


@pytest.mark.parametrize(
    ("name", "module", "gate", "up", "down"),
    [
        ("mixtral", "block_sparse_moe", "w1", "w3", "w2"),
        ("qwen3moe", "mlp", "gate_proj", "up_proj", "down_proj"),
    ],
)
def test_fused_experts(name: str, module: str, gate: str, up: str, down: str) -> None:
    """transformers 5 keeps the experts of a layer in one tensor, gate above up."""
    tiny = TINY[name]
    weights = tiny.weights()
    before = logits(checkpoint(tiny.config, weights))
    for i in range(tiny.config["num_hidden_layers"]):
        layer = f"model.layers.{i}"

        def stack(matrix: str, layer: str = layer) -> np.ndarray:
            prefix = f"{layer}.{module}.experts."
            names = [n for n in weights if n.startswith(prefix) and n.endswith(f".{matrix}.weight")]
            return np.stack([weights.pop(n) for n in names])

        weights[f"{layer}.mlp.gate.weight"] = weights.pop(f"{layer}.{module}.gate.weight")
        weights[f"{layer}.mlp.experts.gate_up_proj"] = np.concatenate([stack(gate), stack(up)], axis=1)
        weights[f"{layer}.mlp.experts.down_proj"] = stack(down)
    assert np.array_equal(logits(checkpoint(tiny.config, weights)), before)


@pytest.mark.parametrize("text", ["language_model.model.", "model.language_model."])
def test_text_of_a_multimodal_gemma(text: str) -> None:
    tiny = TINY["gemma3"]
    weights = {name.replace("model.", text, 1): tensor for name, tensor in tiny.weights().items()}
    vision = {
        "vision_tower.x.weight": np.zeros(1, np.float32),
        "model.multi_modal_projector.y": np.zeros(1, np.float32),
    }
    config = {"model_type": "gemma3", "text_config": tiny.config}
    assert np.array_equal(logits(checkpoint(config, weights | vision)), logits(checkpoint(tiny.config, tiny.weights())))


@pytest.mark.parametrize("width", [np.float16, np.uint16])
def test_vectors_and_routers_become_f32(width: type) -> None:
    """Exactly: every float16 and bfloat16 (here as uint16) is a float32."""

    def narrow(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16) if width is np.float16 else (x.view(np.uint32) >> 16).astype(np.uint16)

    def widen(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32) if width is np.float16 else (x.astype(np.uint32) << 16).view(np.float32)

    tiny = TINY["qwen3moe"]
    weights = {name: narrow(tensor) for name, tensor in tiny.weights().items()}
    model = checkpoint(tiny.config, weights)
    half = Format.F16 if width is np.float16 else Format.BF16
    for ours, theirs in (
        ("blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight"),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
    ):
        info, data = model.tensors[ours], model.load(ours).data
        assert info.format is (half if "attn_v" in ours else Format.F32)
        assert model.load(ours).info == info and data.nbytes == info.num_bytes
        values = data.view(width if "attn_v" in ours else np.float32)
        assert np.array_equal(values, weights[theirs] if "attn_v" in ours else widen(weights[theirs]))


def test_ignores_what_is_computed_anew_and_tied_heads() -> None:
    tiny = TINY["llama3"]
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
        "lm_head.weight": np.ones((96, 64), np.float32),
    }
    plain = checkpoint(tiny.config, tiny.weights())
    assert checkpoint(tiny.config, tiny.weights() | extra).tensors == plain.tensors


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "llama",
            {"model.layers.0.self_attn.q_norm.weight": 1},
            "no place for the tensors model.layers.0.self_attn.q_",
        ),
        ("llama", {"visual.patch.weight": 1, "model.": 1}, "no place for the tensors visual.patch.weight, model."),
        ("llama", {"vision_tower.patch.weight": 1}, "no place for the tensors vision_tower.patch.weight"),
        ("llama", {"model.layers.3.mlp.up_proj.weight": 1}, "llama has no place for the tensors blk.3.ffn_up.weight"),
        ("llama", {"lm_head.weight": None}, "lm_head.weight is missing, and tie_word_embeddings is false"),
        ("llama", {"model.norm.weight": None}, "tensor output_norm.weight is missing; expected one of shape [64]"),
        ("llama", {"model.norm.weight": 3}, "tensor output_norm.weight has shape [3], expected [64]"),
        ("qwen2", {"model.layers.2.self_attn.k_proj.bias": None}, "tensor blk.2.attn_k.bias is missing"),
        (
            "mixtral",
            {"model.layers.1.block_sparse_moe.experts.2.w1.weight": None},
            "blk.1.ffn_gate_exps.weight lacks expert 2 of 4",
        ),
        (
            "mixtral",
            {"model.layers.1.block_sparse_moe.experts.2.w1.weight": 3},
            "experts.2.w1.weight is F32 [3], but model.layers.1.block_sparse_moe.experts.0.w1.weight is F32 [96, 64]",
        ),
        ("mixtral", {"model.layers.0.mlp.gate.weight": 1}, "mlp.gate.weight are both blk.0.ffn_gate_inp.weight"),
        ("mixtral", {"model.layers.0.mlp.experts.9999999999.w1.weight": 1}, "no place for the tensors"),
    ],
)
def test_wrong_tensors(name: str, changes: dict[str, int | None], message: str) -> None:
    """`changes` adds vectors of so many values, and takes tensors away."""
    weights = TINY[name].weights()
    for tensor, length in changes.items():
        if length is None:
            del weights[tensor]
        else:
            weights[tensor] = np.ones(length, np.float32)
    with pytest.raises(ModelError) as error:
        model = checkpoint(TINY[name].config, weights)
        build(ModelConfig.from_checkpoint(model), model)
    assert message in str(error.value) and str(error.value).startswith("memory: ")


def test_loading_a_tensor_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"memory: tensor blk\.9\.attn_q\.weight is missing"):
        checkpoint(TINY["llama"].config, TINY["llama"].weights()).load("blk.9.attn_q.weight")
