"""The GPU runtime on whole models, on torch's CPU in place of a GPU, against the CPU runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny import MODELS, PROMPT, Tiny
from tests.oracles.make_models import FILE, ROWS
from tests.runtime.cuda.plans import Part, load, logits, plan


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(FILE)


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the range of its row."""
    return float((np.abs(ours - theirs).max(1) / np.ptp(theirs, axis=1)).max())


@pytest.mark.parametrize("tiny", MODELS, ids=str)
def test_architectures(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    """A prompt in two pieces, then single tokens, in float32: as transformers computed it."""
    runtime = load(tiny.write_folder(tmp_path / "folder"))
    blocks = [5, 2, 7, 0, 3]
    first = logits(runtime, plan(Part(PROMPT[:25], 0, blocks, all_rows=True)))
    ours = np.concatenate([first, logits(runtime, plan(Part(PROMPT[25:], 25, blocks, all_rows=True)))])
    expected = golden[f"{tiny}.logits"]
    tokens = golden[f"{tiny}.tokens"].tolist()
    rows = [row for row in ROWS if row < len(PROMPT)]
    assert worst(ours[rows], expected[: len(rows)]) <= 2e-4
    drawn = [int(ours[-1].argmax())]
    while len(drawn) < 4:
        output = runtime.run(plan(Part(drawn[-1:], len(PROMPT) + len(drawn) - 1, blocks)))
        drawn.append(int(output.tokens[0]))
    assert drawn == tokens[:4]
