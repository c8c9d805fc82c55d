"""Attention over the paged cache against float64, and that nothing but a row's own context decides its result."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.native.harness import Sequences, attention_graph, logits, program, random_tokens

TOLERANCES = {"f32": 2e-5, "f16": 5e-3, "bf16": 4e-2}


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window", "softcap", "sinks", "length"),
    [
        (1, 1, 8, 0, 0.0, False, 1),
        (1, 1, 32, 0, 0.0, False, 17),
        (2, 1, 64, 0, 0.0, False, 64),
        (3, 1, 64, 0, 0.0, True, 65),
        (4, 2, 20, 0, 0.0, False, 130),
        (5, 1, 80, 0, 3.0, False, 100),
        (6, 1, 96, 0, 0.0, False, 40),
        (7, 1, 128, 9, 0.0, False, 200),
        (8, 8, 16, 1, 0.0, False, 40),
        (14, 2, 64, 100, 0.0, True, 300),
        (9, 3, 4, 0, 2.0, True, 33),
        (3, 1, 256, 0, 0.0, False, 50),
        (4, 4, 32, 600, 0.0, False, 1300),
        (4, 1, 64, 0, 0.0, False, 1100),
        (96, 1, 16, 0, 0.0, False, 30),
    ],
)
def test_against_float64(
    heads: int, kv_heads: int, head_dim: int, window: int, softcap: float, sinks: bool, length: int
) -> None:
    graph, checkpoint = attention_graph(heads, kv_heads, head_dim, window, softcap, sinks)
    tokens = random_tokens(length)
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    for dtype, tolerance in TOLERANCES.items():
        got = logits(program((graph, checkpoint), threads=2, cache_dtype=dtype), tokens)
        assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max(), dtype


LENGTH = 1700
"""Several splits, the last one partial."""


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(6, 2, 64), (1, 1, 16), (12, 1, 40)])
@pytest.mark.parametrize("window", [0, 700])
def test_rows_are_the_same_however_they_come(dtype: str, shape: tuple[int, int, int], window: int) -> None:
    model = attention_graph(*shape, window=window)
    tokens = random_tokens(LENGTH)
    expected = logits(program(model, 1, dtype), tokens)
    for threads, chunk, block_size in [(2, LENGTH, 16), (3, 100, 32), (1, 7, 64), (4, 1024, 128)]:
        got = logits(program(model, threads, dtype), tokens, chunk, block_size)
        assert (got == expected).all(), (threads, chunk, block_size)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_long_sequences_are_shared_among_threads_with_the_same_result(threads: int) -> None:
    """Single rows over a long context are split among threads; a row of a whole prompt is not."""
    lengths = [LENGTH, 30, 1, 600]
    prompts = [random_tokens(n, seed=n) for n in lengths]
    model = attention_graph(4, 2, 32)
    expected = [logits(program(model), p) for p in prompts]
    batch = Sequences(program(model, threads), prompts)
    batch.step({s: n - 1 for s, n in enumerate(lengths) if n > 1})
    batch.step(dict.fromkeys(range(len(lengths)), 1))
    for got, want in zip(batch.logits, expected, strict=True):
        assert (np.array(got) == want).all()


def test_garbage_in_a_reused_block_is_not_seen() -> None:
    """A sequence that overflowed leaves infinities behind; the next user of its blocks must not notice."""
    graph, checkpoint = attention_graph(2, 1, 16)
    table = checkpoint.data["v.weight"].view(np.float32).reshape(50, -1)
    table[0] = np.inf
    tokens = [t or 1 for t in random_tokens(20)]
    clean = logits(program((graph, checkpoint)), tokens)
    dirty = program((graph, checkpoint))
    sequences = Sequences(dirty, [[0] * 32, tokens])
    sequences.tables[1] = sequences.tables[0]
    sequences.step({0: 32})
    assert not np.isfinite(sequences.logits[0][0]).all()
    for _ in tokens:
        sequences.step({1: 1})
    assert (np.array(sequences.logits[1]) == clean).all()
