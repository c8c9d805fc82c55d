"""Make models.npz: what Hugging Face transformers computes for the tiny models of tests/models/tiny.py.

`<name>.tokens` are 30 greedy tokens after the prompt, `<name>.logits` the prompt's logits at ROWS.
Needs torch and transformers: `python -m tests.oracles.make_models`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.models.tiny import MODELS, PROMPT
from tests.oracles.transformers_model import TransformersModel

FILE = Path(__file__).with_name("models.npz")
ROWS = [0, 13, 26, 39]
STEPS = 30
MARGIN = 0.004
"""Between the best and the second logit of a step, of their range: rounding cannot swap them."""


def margin(logits: np.ndarray) -> float:
    ordered = np.sort(logits)
    return float((ordered[-1] - ordered[-2]) / (ordered[-1] - ordered[0]))


def main() -> None:
    golden = {}
    for tiny in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            model = TransformersModel(tiny.write_folder(Path(folder) / tiny.name))
        tokens = model.greedy(PROMPT, STEPS)
        logits = model.logits([*PROMPT, *tokens])
        closest = min(margin(row) for row in logits[len(PROMPT) - 1 : -1])
        varied = len(set(tokens))
        print(f"{tiny.name:16} margin {closest:.4f}, {varied} different tokens")
        if closest < MARGIN or varied < 8:
            raise SystemExit(f"{tiny.name}: choose another seed")
        golden |= {f"{tiny.name}.tokens": np.int32(tokens), f"{tiny.name}.logits": model.logits(PROMPT)[ROWS]}
    np.savez_compressed(FILE, **golden)


if __name__ == "__main__":
    main()
