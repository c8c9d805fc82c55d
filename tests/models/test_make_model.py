"""Models of well-known shapes from ../shared/tools: the folder and the GGUF file must write the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.stepper import Stepper

TOOL = Path(__file__).parents[3] / "shared" / "tools" / "make_model.py"
PROMPT = [1, 2000, 40000, 7]


@pytest.mark.skipif(not TOOL.exists(), reason="../shared/tools is not there")
@pytest.mark.parametrize("shape", ["tiny", pytest.param("smollm2-135m", marks=pytest.mark.compare)])
def test_same_tokens(shape: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOL, shape, tmp_path], check=True)
    tokens = Stepper(tmp_path / "hf").greedy(PROMPT, 30)
    assert tokens == Stepper(tmp_path / f"{shape}-bf16.gguf").greedy(PROMPT, 30)
    assert len(set(tokens)) > 5  # not the same few over and over
