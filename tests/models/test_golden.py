"""Tiny models of every architecture against what transformers computed (tests/oracles/models.npz), without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests import reference
from tests.models.tiny import MODELS, PROMPT, Tiny
from tests.oracles.make_models import FILE, ROWS
from trivet.models.config import ModelConfig
from trivet.models.registry import build
from trivet.weights import open_checkpoint

TOLERANCE = 2e-3
"""Of the range of a row's logits."""


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(FILE)


def check(path: Path, logits: np.ndarray, tokens: np.ndarray) -> None:
    checkpoint = open_checkpoint(path)
    graph = build(ModelConfig.from_checkpoint(checkpoint), checkpoint)
    weights = reference.Weights(checkpoint)
    ours = reference.run(graph, weights, [*PROMPT, *map(int, tokens[:-1])])
    difference = np.abs(ours[ROWS] - logits).max(1) / np.ptp(logits, axis=1)
    assert difference.max() <= TOLERANCE / 10, "the reference computes in float64"
    assert ours[len(PROMPT) - 1 :].argmax(1).tolist() == tokens.tolist()


@pytest.mark.parametrize("tiny", MODELS, ids=str)
def test_folder(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "folder")
    check(folder, golden[f"{tiny}.logits"], golden[f"{tiny}.tokens"])


@pytest.mark.parametrize("tiny", [m for m in MODELS if m.gguf_arch], ids=str)
def test_gguf(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    file = tiny.write_gguf(tmp_path / "model.gguf")
    check(file, golden[f"{tiny}.logits"], golden[f"{tiny}.tokens"])
