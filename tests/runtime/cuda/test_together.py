"""Runtime and kernels together, in Triton's interpreter: slow, so on few tokens."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.native.harness import Sequences, model_graph, random_tokens
from tests.runtime.cuda.models import Logits, graph_runtime, worst
from trivet.weights.formats import Format


@pytest.mark.parametrize(
    ("formats", "experts", "tolerance"),
    [("BF16", 4, 4e-2), ("Q8_0 Q4_K Q6_K Q4_0", 0, 2e-2)],
)
def test_logits(formats: str, experts: int, tolerance: float) -> None:
    """A prompt, and a token after it."""
    model = graph, checkpoint = model_graph(*(Format[name] for name in formats.split()), experts=experts)
    tokens = random_tokens(3)
    sequences = Sequences(Logits(graph_runtime(model, enforce_eager=True)), [tokens])  # type: ignore[arg-type]
    sequences.step({0: 2})
    sequences.step({0: 1})
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    assert worst(np.array(sequences.logits[0]), expected) <= tolerance


def test_company_changes_no_bit() -> None:
    """Beside another's token, then in a graph; or in one piece, alone."""
    runtime = graph_runtime(model_graph(Format.BF16), max_num_seqs=2)
    tokens = [random_tokens(4, seed) for seed in range(2)]

    def run(*steps: dict[int, int]) -> list[np.ndarray]:
        sequences = Sequences(Logits(runtime), tokens)  # type: ignore[arg-type]
        for step in steps:
            sequences.step(step)
        return [np.array(rows) for rows in sequences.logits]

    together = run({1: 1, 0: 2}, {0: 1, 1: 1})
    alone = run({0: 3})
    assert (alone[0] == together[0]).all()
