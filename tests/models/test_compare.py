"""Tiny models of every architecture side by side with transformers and, where it is installed, llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.memory import MemoryCheckpoint
from tests.models.stepper import Stepper
from tests.models.tiny import MODELS, PROMPT, Tiny
from tests.oracles.llamacpp_model import LlamaCppModel
from tests.oracles.make_models import STEPS
from tests.oracles.transformers_model import TransformersModel
from trivet import _native
from trivet.models.config import ModelConfig
from trivet.weights.names import HuggingFaceCheckpoint

pytestmark = pytest.mark.compare

TOLERANCE = 2e-3
"""Of the range of a row's logits."""
ROUNDS = _native.system_info()["isa"] in ("avx512_bf16", "amx")
"""Whether activations are rounded to bfloat16 where weights are."""

Logits = Callable[[list[int]], np.ndarray]


def check_equal(model: Path, oracle: Logits, rounded: Logits | None = None) -> None:
    """The logits of the prompt, in two chunks, and of STEPS greedy steps, which the oracle would take as well.

    rounded: the oracle with more rounded than here. Its logits are at least as far off, in most rows: in some, rounding
    chooses other experts. Steps may differ.
    """
    stepper, tokens = Stepper(model, cache="f32"), list(PROMPT)
    ours = [*stepper.step(tokens[:25]), *stepper.step(tokens[25:])]
    for _ in range(STEPS):
        tokens.append(int(ours[-1].argmax()))
        ours += [*stepper.step(tokens[-1:])]
    expected = oracle(tokens)
    difference = np.abs(np.array(ours) - expected).max(1) / np.ptp(expected, axis=1)
    if rounded is not None:
        theirs = np.abs(rounded(tokens) - expected).max(1) / np.ptp(expected, axis=1)
        assert np.median(difference) <= np.median(theirs)
        return
    assert difference.max() <= TOLERANCE
    assert expected[len(PROMPT) - 1 : -1].argmax(1).tolist() == tokens[len(PROMPT) :]


@pytest.mark.parametrize("tiny", MODELS, ids=str)
def test_transformers(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny.write_folder(tmp_path / "folder")
    check_equal(folder, TransformersModel(folder).logits)


@pytest.mark.parametrize("tiny", MODELS, ids=str)
def test_folder_saved_by_transformers(tiny: Tiny, tmp_path: Path) -> None:
    """Its own spelling of the configuration, and bfloat16 weights."""
    torch = pytest.importorskip("torch")
    model = TransformersModel(tiny.write_folder(tmp_path / "folder")).model
    saved = tmp_path / "saved"
    model.to(torch.bfloat16).save_pretrained(saved)
    rounded = TransformersModel(saved, "bfloat16").logits if ROUNDS else None
    check_equal(saved, TransformersModel(saved).logits, rounded)


@pytest.mark.parametrize("tiny", [m for m in MODELS if m.llamacpp], ids=str)
def test_llamacpp(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    file = tiny.write_gguf(tmp_path / "model.gguf")
    check_equal(file, LlamaCppModel(file).logits)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.5},
        YARN,
        YARN | {"beta_fast": 8, "beta_slow": 2},
        YARN | {"truncate": False},
        YARN | {"attention_factor": 1.5},
        YARN | {"mscale": 0.7, "mscale_all_dim": 0.3},
        {"rope_type": "yarn", "factor": 4.0},
        YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("theta", [500.0, 10000.0, 1e6])
def test_rotary_frequencies(scaling: dict[str, Any], theta: float) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    tiny = next(m for m in MODELS if m.name == "llama")
    parameters = {"rope_parameters": scaling | {"rope_theta": theta}, "head_dim": 64}
    config = {k: v for k, v in tiny.config.items() if k != "rope_theta"} | parameters
    oracle = LlamaRotaryEmbedding(transformers.LlamaConfig(**config))
    rotary = ModelConfig.from_checkpoint(HuggingFaceCheckpoint(MemoryCheckpoint(config, tiny.weights()))).rotaries[0]
    assert rotary.inv_freq == pytest.approx(oracle.inv_freq.tolist(), rel=1e-5)
    assert rotary.magnitude == pytest.approx(oracle.attention_scaling)
