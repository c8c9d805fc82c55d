"""Models that are not ours, from ../shared: each as a GGUF file and as a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import reference
from trivet.models.config import ModelConfig
from trivet.models.registry import build
from trivet.weights import open_checkpoint

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared is not there")

ONCE_UPON_A_TIME = [1, 403, 407, 261, 378]
STORY = [
    *(432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292),
    *(411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426),
]
"""What transformers and llama.cpp both continue with, as ../shared/README.md says."""


def greedy(path: Path, prompt: list[int], count: int) -> list[int]:
    checkpoint = open_checkpoint(path)
    graph = build(ModelConfig.from_checkpoint(checkpoint), checkpoint)
    return reference.greedy(graph, reference.Weights(checkpoint), prompt, count, np.float32)


@pytest.mark.parametrize("source", ["stories260k.gguf", "hf"])
def test_stories260k(source: str) -> None:
    assert greedy(SHARED / "models" / "stories260k" / source, ONCE_UPON_A_TIME, len(STORY)) == STORY


def make_model(shape: str, out: Path) -> tuple[Path, Path]:
    """The folder and the GGUF file of a well-known shape, with random bfloat16 weights."""
    subprocess.run([sys.executable, SHARED / "tools" / "make_model.py", shape, out], check=True)
    return out / "hf", out / f"{shape}-bf16.gguf"


def test_make_model_tiny(tmp_path: Path) -> None:
    folder, file = make_model("tiny", tmp_path)
    tokens = greedy(folder, [1, 2000, 40000, 7], 6)
    assert tokens == greedy(file, [1, 2000, 40000, 7], 6)
    assert len(set(tokens)) > 1
