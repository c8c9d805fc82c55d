"""Rotary embeddings and cache writes against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.runtime.cuda.compiled import compiled
from trivet.runtime.cuda.kernels.rope import rope, rope_and_cache, write_cache

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn]
"""Of the cache."""


def inverse_frequencies(pairs: int) -> torch.Tensor:
    return 10_000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def rotated(x: torch.Tensor, positions: torch.Tensor, pairs: int, interleaved: bool, magnitude: float) -> torch.Tensor:
    """x [T, heads, head_dim] in float64."""
    angle = positions.double()[:, None, None] * inverse_frequencies(pairs)
    cos, sin = angle.cos() * magnitude, angle.sin() * magnitude
    first, second = (
        (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if interleaved else (slice(pairs), slice(pairs, 2 * pairs))
    )
    y = x.double().clone()
    a, b = x[..., first].double(), x[..., second].double()
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    return y


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to half a unit of the type's last place, and a little of float32's."""
    if got.dtype == torch.float8_e4m3fn:
        expected = expected.clamp(-448, 448)
        limit = (expected.abs() / 16).clamp(min=2.0**-10)
    else:
        limit = (expected.abs() * torch.finfo(got.dtype).eps / 2).clamp(min=2.0**-25)
    assert ((got.double() - expected).abs() <= limit * 1.001 + 4e-6).all()


@st.composite
def rotaries(draw: st.DrawFn) -> dict:
    head_dim = draw(st.sampled_from([8, 32, 64, 80, 96, 112, 128, 256]))
    return {
        "heads": draw(st.integers(1, 9)),
        "kv_heads": draw(st.integers(1, 5)),
        "head_dim": head_dim,
        "pairs": draw(st.sampled_from([head_dim // 2, head_dim // 4, head_dim // 4 - 1])),
        "interleaved": draw(st.booleans()),
        "magnitude": draw(st.sampled_from([1.0, 1.3])),
        "dtype": draw(st.sampled_from(TYPES[:3])),
        "cache_dtype": draw(st.sampled_from(TYPES)),
        "block_size": draw(st.sampled_from([16, 32])),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rotaries())
def test_rope_and_cache(c: dict) -> None:
    generator = torch.Generator().manual_seed(c["seed"])
    widths = [heads * c["head_dim"] for heads in (c["heads"], c["kv_heads"], c["kv_heads"])]
    rows = 3 * torch.randn(4, sum(widths), generator=generator)
    q, k, v = rows.to(c["dtype"]).split(widths, 1)  # not contiguous, as they come from one product
    positions = torch.tensor([0, 1, 4095, 131071], dtype=torch.int32)
    shape = (4, c["block_size"], c["kv_heads"], c["head_dim"])
    slots = torch.randperm(4 * c["block_size"], generator=generator)[:4].to(torch.int32)
    slots[2] = -1
    caches = [torch.full(shape, 7.0).to(c["cache_dtype"]) for _ in range(2)]
    args = (inverse_frequencies(c["pairs"]), c["interleaved"], c["magnitude"], c["head_dim"])
    y = rope_and_cache(q, k, v, positions, slots, *args, *caches)

    def expected(x: torch.Tensor) -> torch.Tensor:
        return rotated(x.unflatten(1, (-1, c["head_dim"])), positions, c["pairs"], c["interleaved"], c["magnitude"])

    assert y.dtype == c["dtype"]
    close(y, expected(q).flatten(1))
    assert (rope(q, positions, *args) == y).all()
    written = slots.long()[[0, 1, 3]]
    for cache, values in zip(caches, (expected(k), v.unflatten(1, (-1, c["head_dim"])).double()), strict=True):
        places = cache.double().flatten(0, 1)
        close(places[written].to(cache.dtype), values[[0, 1, 3]])
        rest = torch.ones(len(places), dtype=torch.bool)
        rest[written] = False
        assert (places[rest] == 7.0).all()
    copies = [torch.full(shape, 7.0).to(c["cache_dtype"]) for _ in range(2)]
    write_cache(k, v, slots, *copies)
    assert (copies[1].double() == caches[1].double()).all()
    close(copies[0].flatten(0, 1)[written.tolist()], k.unflatten(1, (-1, c["head_dim"]))[[0, 1, 3]].double())


def test_padding_writes_nothing() -> None:
    caches = [torch.full((2, 16, 2, 32), 7.0) for _ in range(2)]
    x, slots = torch.randn(5, 64), torch.full((5,), -1, dtype=torch.int32)
    write_cache(x, x, slots, *caches)
    rope_and_cache(x, x, x, slots + 1, slots, inverse_frequencies(16), False, 1.0, 32, *caches)
    assert all((cache == 7.0).all() for cache in caches)


def test_float8_saturates() -> None:
    caches = [torch.zeros((1, 16, 1, 16), dtype=torch.float8_e4m3fn) for _ in range(2)]
    x = torch.tensor([[500.0, -1e9, 448.0, 460.0] * 4])
    write_cache(x, x, torch.zeros(1, dtype=torch.int32), *caches)
    assert caches[0].float().flatten()[:4].tolist() == [448, -448, 448, 448]


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("interleaved", [False, True])
def test_compiled(arch: int, interleaved: bool) -> None:
    def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q, k, v = tensor(64, 48 * 128).split([32 * 128, 8 * 128, 8 * 128], 1)
    places = tensor(64, dtype=torch.int32)
    caches = [tensor(100, 16, 8, 128, dtype=TYPES[3] if arch > 80 else TYPES[0]) for _ in range(2)]
    args = (tensor(64, dtype=torch.float64), interleaved, 1.0, 128)
    kernels = [
        *compiled(lambda: rope(q, places, *args), arch),
        *compiled(lambda: rope_and_cache(q, k, v, places, places, *args, *caches), arch),
        *compiled(lambda: write_cache(k, v, places, *caches), arch),
    ]
    for kernel in kernels:
        assert kernel.registers <= 128, kernel
        assert "ld.global.v4.b32" in kernel.ptx
        assert "st.global.v" in kernel.ptx
