"""The GPU runtime's logits: against what transformers and the numpy reference computed, and against themselves however
steps are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import reference
from tests.models.tiny import MODELS, PROMPT, Tiny
from tests.native.harness import Sequences, model_graph, random_tokens
from tests.oracles.make_models import FILE, ROWS
from tests.runtime.cuda.models import Logits, graph_runtime, load_small, worst
from trivet.weights.formats import Format

pytestmark = pytest.mark.usefixtures("plain_kernels")

DIFFERENT = [
    *("llama3", "llama-bias", "mistral", "mixtral", "qwen2", "qwen3", "qwen3moe"),
    *("gemma2", "gemma3", "phi3", "phi3-long"),
]
"""The models of tests/models/tiny.py that differ in more than numbers."""


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(FILE)


@pytest.mark.parametrize("tiny", [m for m in MODELS if m.name in DIFFERENT], ids=str)
def test_architectures(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    """A prompt in two pieces and a token, in float32: as transformers computed it."""
    runtime = load_small(tiny.write_folder(tmp_path / "folder"))
    tokens = [*PROMPT, int(golden[f"{tiny}.tokens"][0])]
    sequences = Sequences(Logits(runtime), [tokens])  # type: ignore[arg-type]
    for count in (25, 15, 1):
        sequences.step({0: count})
    logits = np.array(sequences.logits[0])
    assert worst(logits[ROWS], golden[f"{tiny}.logits"]) <= 2e-4
    assert logits[-2:].argmax(1).tolist() == golden[f"{tiny}.tokens"][:2].tolist()


@pytest.mark.parametrize(
    ("formats", "experts", "tolerance"),
    [("F32", 4, 1e-4), ("BF16", 0, 2e-2), ("BF16 F16", 4, 4e-2), ("IQ3_S Q2_K", 0, 2e-2), ("NVFP4", 0, 2e-2)],
)
def test_dense_and_dequantised(formats: str, experts: int, tolerance: float) -> None:
    model = graph, checkpoint = model_graph(*(Format[name] for name in formats.split()), experts=experts)
    checkpoint.add("0.o.scale", 1)
    if experts:
        checkpoint.add("1.ffn_up_exps.scale", experts)
    tokens = random_tokens(9)
    sequences = Sequences(Logits(graph_runtime(model, enforce_eager=True)), [tokens])  # type: ignore[arg-type]
    sequences.step({0: 8})
    sequences.step({0: 1})
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    assert worst(np.array(sequences.logits[0]), expected) <= tolerance


@pytest.mark.parametrize("eager", [False, True])
def test_company_changes_no_bit(eager: bool) -> None:
    """Alone or beside others, token by token or in pieces, in padded graphs or without."""
    runtime = graph_runtime(model_graph(Format.BF16), enforce_eager=eager)
    lengths = (9, 7, 8)
    tokens = [random_tokens(length, seed) for seed, length in enumerate(lengths)]

    def run(*steps: dict[int, int]) -> list[np.ndarray]:
        sequences = Sequences(Logits(runtime), tokens)  # type: ignore[arg-type]
        for step in steps:
            sequences.step(step)
        return [np.array(rows) for rows in sequences.logits]

    together = run({0: 5, 1: 3}, {0: 1, 1: 1, 2: 6}, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1}, {0: 1}, {1: 1})
    for s, length in enumerate(lengths):
        alone = run({s: length - 3}, {s: 1}, {s: 1}, {s: 1})
        assert (alone[s] == together[s]).all()


def test_cache_types() -> None:
    model = graph, checkpoint = model_graph()
    tokens = random_tokens(12)
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    for dtype, tolerance in (("f32", 1e-4), ("f16", 2e-3), ("bf16", 1e-2), ("fp8", 0.1)):
        runtime = graph_runtime(model, kv_cache_dtype=dtype, enforce_eager=True)
        sequences = Sequences(Logits(runtime), [tokens], block_size=32)  # type: ignore[arg-type]
        sequences.step({0: 11})
        sequences.step({0: 1})
        assert worst(np.array(sequences.logits[0]), expected) <= tolerance
        assert runtime.block_bytes(32) == 2 * 2 * 4 * 32 * 32 * {"f32": 4, "fp8": 1}.get(dtype, 2)


def test_blocks_can_be_moved() -> None:
    """To another place, and to another runtime of the same identity."""
    model = model_graph(Format.BF16)
    tokens = random_tokens(40)
    first, second = (graph_runtime(model, enforce_eager=True) for _ in range(2))
    assert first.identity() == second.identity() != graph_runtime(model, kv_cache_dtype="f32").identity()
    graph, checkpoint = model
    other = replace(graph, rotaries=[replace(rotary, magnitude=0.5) for rotary in graph.rotaries])
    assert first.identity() != graph_runtime((other, checkpoint)).identity()
    sequences = Sequences(Logits(first), [tokens])  # type: ignore[arg-type]
    sequences.step({0: 32})
    moved = Sequences(Logits(second), [tokens])  # type: ignore[arg-type]
    for old, new in zip(sequences.tables[0][:2], moved.tables[0][[2, 0]], strict=True):
        data = first.read_block(int(old))
        assert data.dtype == np.uint8 and data.size == first.block_bytes(16)
        second.write_block(int(new), data)
    moved.tables[0] = moved.tables[0][[2, 0, 1]]
    moved.done[0] = 32
    sequences.step({0: 8})
    moved.step({0: 8})
    assert (np.array(moved.logits[0]) == np.array(sequences.logits[0][32:])).all()
