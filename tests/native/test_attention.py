"""Attention over the paged cache against float64, and that nothing but a row's own context decides its result."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.native.harness import Sequences, attention_graph, logits, program, random_tokens
from trivet import _native

DTYPES = ("f32", "f16", "bf16", "q8_0")
MIXTURES = tuple(f"{keys}/{values}" for keys in DTYPES for values in DTYPES)


def as_cached(dtype: str, table: np.ndarray, head_dim: int) -> np.ndarray:
    """What the cache makes of keys or values [n, heads * head_dim]."""
    if dtype == "f16":
        return table.astype(np.float16).astype(np.float64)
    if dtype == "bf16":
        bits = table.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)
    if dtype == "f32":
        return table
    heads = table.reshape(len(table), -1, head_dim)
    out = np.empty(heads.shape)
    for begin in range(0, head_dim, 32):
        block = heads[..., begin : begin + 32]
        scale = (np.abs(block).max(-1, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
        out[..., begin : begin + 32] = np.rint(np.clip(block * (np.float32(1) / scale), -127, 127)) * scale
    return out.reshape(table.shape)


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
        (6, 2, 112, 50, 0.0, True, 150),
        (4, 2, 33, 0, 10.0, False, 90),
        (2, 1, 192, 0, 0.0, True, 70),
        (8, 2, 256, 33, 5.0, True, 140),
    ],
)
def test_against_float64(
    heads: int, kv_heads: int, head_dim: int, window: int, softcap: float, sinks: bool, length: int
) -> None:
    """Of what the cache holds: what a type of cache rounds is no error of attention.

    To float32's precision, and where tiles multiply, to the 16 bits that queries and weights have in them.
    """
    graph, checkpoint = attention_graph(heads, kv_heads, head_dim, window, softcap, sinks)
    tokens = random_tokens(length)
    for i, dtype in enumerate(MIXTURES if length <= 100 else DTYPES):
        weights = reference.Weights(checkpoint)
        keys, slash, values = dtype.partition("/")
        for name, kind in (("k.weight", keys), ("v.weight", values if slash else keys)):
            weights.cache[name] = as_cached(kind, weights[name], head_dim)
        expected = reference.run(graph, weights, tokens)
        got = logits(
            program((graph, checkpoint), threads=2, cache_dtype=dtype), tokens, block_size=16 << (heads + i) % 4
        )
        tiles = _native.system_info()["isa"] == "amx" and "f32" not in dtype
        assert np.abs(got - expected).max() <= (4e-5 if tiles else 5e-6) * np.abs(expected).max(), dtype


def test_sinks_take_their_share() -> None:
    """A sink as high as the only score halves what is attended to; one far below changes nothing."""
    graph, checkpoint = attention_graph(2, 1, 32, sinks=True)
    [token] = random_tokens(1)
    q, k, v = (checkpoint.data[f"{n}.weight"].view(np.float32)[token].astype(np.float64) for n in "qkv")
    checkpoint.data["sinks"] = np.array([q[:32] @ k * 32**-0.5, -1e4], np.float32).view(np.uint8)
    got = logits(program((graph, checkpoint)), [token])
    assert np.allclose(got[0], np.concatenate([v / 2, v]), rtol=1e-5)


LENGTH = 1700
"""Several splits, the last one partial."""

FEW = 530
"""A split, and a few tokens."""


@pytest.mark.parametrize("dtype", [*DTYPES, "q8_0/f16", "f32/bf16"])
@pytest.mark.parametrize(
    ("shape", "softcap", "sinks"),
    [
        ((6, 2, 64), 0.0, False),
        ((1, 1, 16), 0.0, False),
        ((12, 1, 40), 0.0, False),
        ((4, 2, 33), 5.0, False),
        ((2, 1, 256), 0.0, True),
        ((3, 1, 64), 5.0, True),
        ((4, 1, 48), 0.0, False),
    ],
)
@pytest.mark.parametrize("window", [0, 700])
def test_rows_are_the_same_however_they_come(
    dtype: str, shape: tuple[int, int, int], softcap: float, sinks: bool, window: int
) -> None:
    model = attention_graph(*shape, window, softcap, sinks)
    tokens = random_tokens(LENGTH)
    expected = logits(program(model, 1, dtype), tokens)
    for threads, chunk, block_size in [(2, LENGTH, 16), (3, 100, 32), (1, 7, 64), (4, 1024, 128)]:
        got = logits(program(model, threads, dtype), tokens, chunk, block_size)
        assert (got == expected).all(), (threads, chunk, block_size)
    for chunk in (1, 3):
        got = logits(program(model, 2, dtype), tokens[:FEW], chunk)
        assert (got == expected[:FEW]).all(), chunk


ISA = _native.system_info()["isa"]
ROUNDS = ISA in ("avx512_bf16", "amx")
"""With fast numerics to bfloat16, what more than a token multiplies of keys and values of one type."""


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("dtype", [*DTYPES, "bf16/f16"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window", "softcap", "sinks", "length"),
    [
        (1, 1, 32, 0, 0.0, False, 2),
        (3, 1, 64, 0, 0.0, True, 65),
        (5, 1, 80, 0, 3.0, False, 100),
        (7, 1, 128, 9, 0.0, False, 200),
        (9, 3, 4, 0, 2.0, True, 33),
        (4, 2, 33, 0, 10.0, False, 90),
        (8, 2, 256, 33, 5.0, True, 140),
        (4, 1, 64, 600, 0.0, False, 1300),
    ],
)
def test_fast_numerics_round_to_bfloat16(
    dtype: str, heads: int, kv_heads: int, head_dim: int, window: int, softcap: float, sinks: bool, length: int
) -> None:
    model = attention_graph(heads, kv_heads, head_dim, window, softcap, sinks)
    tokens = random_tokens(length)
    exact, fast = program(model, 1, dtype), program(model, 2, dtype, numerics="fast")
    expected, got = logits(exact, tokens), logits(fast, tokens)
    if ROUNDS and dtype in ("f16", "bf16", "q8_0"):
        assert 2e-4 < relative_error(got, expected) < 6e-3
    else:
        np.testing.assert_array_equal(got, expected)
    single = logits(fast, tokens[:80], chunk=1)
    if ISA == "amx":  # by vectors of float32, where exact tokens have the bits of tiles
        assert relative_error(single, expected[:80]) < 4e-5
        again = logits(program(model, 1, dtype, numerics="fast"), tokens[:80], chunk=1)
        np.testing.assert_array_equal(single, again)
    else:
        np.testing.assert_array_equal(single, expected[:80])


@pytest.mark.parametrize("window", [0, 700])
def test_fast_rows_of_several_tokens_are_the_same_however_they_come(window: int) -> None:
    model = attention_graph(6, 2, 64, window=window)
    tokens = random_tokens(LENGTH)
    expected = logits(program(model, 1, "bf16", numerics="fast"), tokens)
    for threads, chunk, block_size in [(2, LENGTH, 16), (3, 100, 32), (1, 7, 64), (4, 1024, 128)]:
        got = logits(program(model, threads, "bf16", numerics="fast"), tokens, chunk, block_size)
        assert (got == expected).all(), (threads, chunk, block_size)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000], ids=hex)
def test_a_query_that_is_not_finite_spoils_its_row_alone(numerics: str, bits: int) -> None:
    graph, checkpoint = attention_graph(3, 1, 40)
    tokens = [t or 1 for t in random_tokens(90)]
    clean = logits(program((graph, checkpoint), cache_dtype="bf16", numerics=numerics), tokens)
    checkpoint.data["q.weight"].view(np.uint32)[0, 3] = bits
    for name in "kv":
        table = checkpoint.data[f"{name}.weight"].view(np.float32)
        table[0] = table[tokens[50]]
    tokens[50] = 0
    got = logits(program((graph, checkpoint), cache_dtype="bf16", numerics=numerics), tokens)
    assert not np.isfinite(got[50, :40]).any()
    assert (np.delete(got, 50, 0) == np.delete(clean, 50, 0)).all()


@pytest.mark.parametrize("dtype", [*DTYPES, "q8_0/f16"])
@pytest.mark.parametrize(
    ("shape", "window", "softcap", "sinks"),
    [
        ((4, 2, 32), 0, 0.0, False),
        ((4, 2, 33), 0, 0.0, True),
        ((3, 1, 80), 700, 5.0, False),
        ((2, 1, 256), 0, 5.0, True),
    ],
)
def test_long_sequences_are_shared_among_threads_with_the_same_result(
    dtype: str, shape: tuple[int, int, int], window: int, softcap: float, sinks: bool
) -> None:
    """Single rows over a long context are split among threads; a row of a whole prompt is not."""
    lengths = [LENGTH, 30, 1, 600]
    prompts = [random_tokens(n, seed=n) for n in lengths]
    model = attention_graph(*shape, window, softcap, sinks)
    expected = [logits(program(model, 1, dtype), p) for p in prompts]
    for threads in (1, 2, 5):
        batch = Sequences(program(model, threads, dtype), prompts)
        batch.step({s: n - 3 for s, n in enumerate(lengths) if n > 3})
        for _ in range(3):
            batch.step({s: 1 for s, n in enumerate(lengths) if batch.done[s] < n})
        for got, want in zip(batch.logits, expected, strict=True):
            assert (np.array(got) == want).all(), threads


@pytest.mark.parametrize("dtype", MIXTURES)
def test_garbage_in_a_reused_block_is_not_seen(dtype: str) -> None:
    """A sequence that overflowed leaves infinities behind; the next user of its blocks must not notice."""
    graph, checkpoint = attention_graph(2, 1, 16)
    table = checkpoint.data["v.weight"].view(np.float32).reshape(50, -1)
    table[0] = np.inf
    tokens = [t or 1 for t in random_tokens(20)]
    clean = logits(program((graph, checkpoint), cache_dtype=dtype), tokens)
    dirty = program((graph, checkpoint), cache_dtype=dtype)
    sequences = Sequences(dirty, [[0] * 32, tokens])
    sequences.tables[1] = sequences.tables[0]
    sequences.step({0: 32})
    assert not np.isfinite(sequences.logits[0][0]).all()
    for _ in tokens:
        sequences.step({1: 1})
    assert (np.array(sequences.logits[1]) == clean).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 3e4])
def test_quantised_values_of_any_size(size: float) -> None:
    """One token attends to itself alone: the result is its value as the cache has it, to half a step."""
    graph, checkpoint = attention_graph(1, 1, 40)
    checkpoint.data["v.weight"].view(np.float32)[...] *= size
    values = checkpoint.data["v.weight"].view(np.float32)
    for token in range(5):
        got = logits(program((graph, checkpoint), cache_dtype="q8_0"), [token])[0]
        for part in (slice(0, 32), slice(32, 40)):
            error = np.abs(got[part] - values[token, part]).max()
            # A scale below float16's least is 0.
            assert error <= max(0.51 * np.abs(values[token, part]).max() / 127, 2.0**-25 * 127)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_what_cannot_be_quantised_is_not_finite(value: float) -> None:
    graph, checkpoint = attention_graph(1, 1, 40)
    checkpoint.data["v.weight"].view(np.float32)[:, 3] = value
    assert not np.isfinite(logits(program((graph, checkpoint), cache_dtype="q8_0"), [0])).any(where=np.arange(40) < 32)
