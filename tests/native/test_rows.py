"""The operations on rows against float64, at widths that fill no whole number of vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.native.harness import VOCAB, RandomCheckpoint, logits, program, random_tokens
from trivet.graph.builder import GraphBuilder
from trivet.graph.ops import Rotary

WIDTHS = (1, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 100)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("act", ["silu", "gelu_tanh", "gelu"])
def test_against_float64(width: int, act: str) -> None:
    checkpoint = RandomCheckpoint()
    checkpoint.add("x.weight", VOCAB, width, scale=3.0)
    checkpoint.add("norm.weight", width)
    checkpoint.add("eye.weight", width, width)
    checkpoint.data["eye.weight"] = np.eye(width, dtype=np.float32).view(np.uint8)
    b = GraphBuilder(checkpoint.tensors)
    x = b.embed("x", VOCAB, width)
    h = b.act_mul(b.rms_norm(x, "norm", 1e-6), b.scale(x, 0.7), act)
    b.logits(b.select(b.add(x, h)), "eye", width, softcap=4.0, scale=0.8)
    check(b, checkpoint)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "pairs"), [(2, 1), (6, 3), (16, 8), (20, 9), (34, 17), (64, 20), (80, 40)])
def test_rotations(head_dim: int, pairs: int, interleaved: bool) -> None:
    """And norms of each head alone."""
    width = 3 * head_dim
    checkpoint = RandomCheckpoint()
    checkpoint.add("x.weight", VOCAB, width)
    checkpoint.add("norm.weight", head_dim)
    checkpoint.add("eye.weight", width, width)
    checkpoint.data["eye.weight"] = np.eye(width, dtype=np.float32).view(np.uint8)
    b = GraphBuilder(checkpoint.tensors)
    x = b.rms_norm(b.embed("x", VOCAB, width), "norm", 1e-6, group=head_dim)
    x = b.rope(x, Rotary(tuple(0.3 ** (i + 1) for i in range(pairs)), interleaved), head_dim)
    b.logits(b.select(x), "eye", width)
    check(b, checkpoint)


def test_silu_is_as_exact_where_it_is_small() -> None:
    """Down to where float32 has almost no normal numbers left."""
    values = np.concatenate([np.linspace(-100, 100, 8001), np.geomspace(1e-30, 700, 190), [-700]])
    table = np.resize(values, (VOCAB, -(-values.size // VOCAB))).astype(np.float32)
    width = table.shape[1]
    checkpoint = RandomCheckpoint()
    for name, data in (("x", table), ("one", np.ones_like(table)), ("eye", np.eye(width, dtype=np.float32))):
        checkpoint.add(f"{name}.weight", *data.shape)
        checkpoint.data[f"{name}.weight"] = data.view(np.uint8)
    b = GraphBuilder(checkpoint.tensors)
    b.logits(b.select(b.act_mul(b.embed("x", VOCAB, width), b.embed("one", VOCAB, width), "silu")), "eye", width)
    expected = reference.run(b.graph, reference.Weights(checkpoint), list(range(VOCAB)))
    got = logits(program((b.graph, checkpoint)), list(range(VOCAB)))
    assert np.allclose(got, expected, rtol=2e-6, atol=2e-36)


def check(b: GraphBuilder, checkpoint: RandomCheckpoint) -> None:
    tokens = random_tokens(20)
    expected = reference.run(b.graph, reference.Weights(checkpoint), tokens)
    got = logits(program((b.graph, checkpoint)), tokens)
    assert np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max()
