"""Attention over the paged cache against float64; that a row's bits depend on its own context alone; and what the
compiler makes of the kernels."""

from __future__ import annotations

import re
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.runtime.cuda import paged
from tests.runtime.cuda.compiled import INSTRUCTIONS, Compiled, compiled
from trivet.runtime.cuda.kernels import attention as module
from trivet.runtime.cuda.kernels.attention import attention
from trivet.runtime.cuda.kernels.attention_tiles import Launch, Tiles

TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CACHES = [*TOLERANCES, torch.float8_e4m3fn]


@pytest.fixture(params=[False, True], ids=["nested", "flat"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little is enough for many tiles and splits."""

    def tiles_for(head_dim: int, *_: int) -> Tiles:
        prompt, decode, many = ((32, False), (16, False), (16, True))
        launches = (Launch(rows, 4, 1, request.param, turned) for rows, turned in (prompt, decode, many))
        return Tiles(max(16, 1 << (head_dim - 1).bit_length()), 16, *launches)

    monkeypatch.setattr(module, "tiles_for", tiles_for)
    monkeypatch.setattr(module, "SPLIT", 32)


def queries(step: paged.Paged, heads: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[T, heads * head_dim], a view of something wider. A sequence's are its own, whatever else there is."""
    width = heads * step.k_cache.shape[3]
    rows = [
        np.random.default_rng([s, context]).standard_normal((context, width + 16))[context - count :]
        for s, context, count in zip(step.numbers, step.contexts, step.queries, strict=True)
    ]
    return torch.from_numpy(np.concatenate(rows)).to(dtype)[:, :width]


def attend(step: paged.Paged, heads: int, q: torch.Tensor, **options: Any) -> torch.Tensor:
    kv_heads, head_dim = step.k_cache.shape[2:]
    options = {"window": 0, "softcap": 0.0, "decode": max(step.queries) == 1, "scale": head_dim**-0.5, **options}
    return attention(
        q, step.k_cache, step.v_cache, step.batch(), heads=heads, kv_heads=kv_heads, head_dim=head_dim, **options
    )


def check(step: paged.Paged, heads: int, dtype: torch.dtype, sinks: bool = False, **options: Any) -> None:
    head_dim = step.k_cache.shape[3]
    q, scale = queries(step, heads, dtype), head_dim**-0.5
    logits = torch.linspace(-2, 3, heads) if sinks else None
    got = attend(step, heads, q, sinks=logits, **options)
    assert got.dtype == dtype
    row = 0
    for s, count in enumerate(step.queries):
        part = slice(row, row + count)
        expected = paged.attention(
            q[part].double().numpy().reshape(count, heads, head_dim), step.positions(s), step.keys[s], step.values[s],
            scale, options.get("window", 0), options.get("softcap", 0.0),
            None if logits is None else logits.double().numpy(),
        )  # fmt: skip
        difference = np.abs(got[part].double().numpy().reshape(expected.shape) - expected)
        assert difference.max() <= TOLERANCES[dtype] * max(1.0, np.abs(expected).max()), s
        row += count


@st.composite
def steps(draw: st.DrawFn) -> dict:
    contexts = draw(st.lists(st.integers(1, 120), min_size=1, max_size=3))
    kv_heads = draw(st.integers(1, 2))
    return {
        "contexts": contexts,
        "queries": [draw(st.sampled_from([1, min(n, 5), n])) for n in contexts],
        "heads": kv_heads * draw(st.sampled_from([1, 2, 3, 4, 7])),
        "kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from([8, 32, 64, 80])),
        "block_size": draw(st.sampled_from([16, 32, 64, 128])),
        "window": draw(st.sampled_from([0, 0, 1, 30, 100])),
        "softcap": draw(st.sampled_from([0.0, 0.0, 3.0])),
        "sinks": draw(st.booleans()),
        "dtype": draw(st.sampled_from(list(TOLERANCES))),
        "cache": draw(st.sampled_from(CACHES)),
    }


@pytest.mark.usefixtures("small_tiles")
def test_any_step_against_float64() -> None:
    @settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(steps())
    def run(c: dict) -> None:
        step = paged.Paged(c["contexts"], c["queries"], c["kv_heads"], c["head_dim"], c["block_size"], c["cache"])
        check(step, c["heads"], c["dtype"], c["sinks"], window=c["window"], softcap=c["softcap"])

    run()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype", "cache", "window"),
    [
        (4, 1, 64, torch.bfloat16, torch.bfloat16, 0),
        (7, 1, 128, torch.bfloat16, torch.bfloat16, 100),
        (2, 1, 112, torch.float32, torch.float32, 0),
        (1, 1, 256, torch.float16, torch.float16, 0),
        (2, 1, 256, torch.bfloat16, torch.float32, 0),
        (150, 1, 32, torch.bfloat16, torch.bfloat16, 0),
    ],
)
def test_tiles_of_production(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, cache: torch.dtype, window: int
) -> None:
    step = paged.Paged([40, 520, 530], [9, 20, 1] if heads < 128 else [1, 2, 1], kv_heads, head_dim, 16, cache)
    check(step, heads, dtype, window=window)


def test_padding_of_a_decode_batch_is_zero() -> None:
    step = paged.Paged([20, 0, 0], [1, 1, 1], 1, 64, 16)
    q = queries(paged.Paged([20, 20, 20], [1, 1, 1], 1, 64, 16), 2)
    y = attend(step, 2, q)
    assert y[0].abs().min() > 0
    assert (y[1:] == 0).all()


LENGTHS = [150, 40, 64, 1]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("dtype", "window", "softcap", "sinks"), [(torch.float32, 0, 0.0, False), (torch.bfloat16, 70, 3.0, True)]
)
def test_rows_are_the_same_however_they_come(
    dtype: torch.dtype, window: int, softcap: float, sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row of each sequence: alone, among others, in pieces of any length, in wider block tables and other
    blocks, over any number of programs."""
    options: dict[str, Any] = {"window": window, "softcap": softcap}
    options["sinks"] = torch.linspace(-1, 1, 3) if sinks else None

    def last_rows(numbers: list[int], counts: list[int], block_size: int = 16, **more: Any) -> torch.Tensor:
        contexts = [LENGTHS[s] for s in numbers]
        step = paged.Paged(contexts, counts, 1, 32, block_size, dtype, numbers=numbers, **more)
        y = attend(step, 3, queries(step, 3, dtype), **options)
        return y[np.cumsum(counts) - 1]

    everyone = list(range(len(LENGTHS)))
    expected = last_rows(everyone, [1] * len(LENGTHS))
    for s in everyone:
        assert (last_rows([s], [1]) == expected[s]).all(), s
    assert (last_rows(everyone, LENGTHS) == expected).all()
    assert (last_rows(everyone, [7, 1, 50, 1]) == expected).all()
    assert (last_rows(everyone, [1] * len(LENGTHS), 64, seed=3, padding=40) == expected).all()
    for name, value in (("PLACES", 5), ("PROGRAMS", 1), ("WAVES", 0)):
        with monkeypatch.context() as context:
            context.setattr(module, name, value)
            assert (last_rows(everyone, [1] * len(LENGTHS)) == expected).all(), name


def meta(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("arch", "heads", "kv_heads", "head_dim", "options"),
    [
        (90, 32, 8, 128, {}),
        (90, 64, 8, 64, {"window": 128, "sinks": True}),
        (90, 8, 4, 256, {"softcap": 50.0}),
        (80, 28, 4, 96, {}),
        (86, 8, 4, 256, {}),
        (100, 32, 8, 128, {}),
        (120, 32, 8, 128, {}),
    ],
)
def test_compiled(arch: int, heads: int, kv_heads: int, head_dim: int, options: dict) -> None:
    """What is compiled for bfloat16: nothing is spilled in the loops over keys; prompts and decode multiply with the
    same instructions, on which the equality of their rows rests."""
    prompt, decode, combine = compile_attention(arch, heads, kv_heads, head_dim, torch.bfloat16, options)
    with mock.patch.object(module, "WAVES", 0):
        _, many, _ = compile_attention(arch, heads, kv_heads, head_dim, torch.bfloat16, options)
    for kernel in (prompt, decode, many, combine):
        assert kernel.loop_spills == 0, kernel
        assert kernel.stack <= 256, kernel
        assert not kernel.serial, kernel
    assert prompt.layouts == decode.layouts
    for kernel in (prompt, decode, many):
        assert kernel.instructions == {INSTRUCTIONS.get(arch, "mma.sync")}, kernel
        assert is_pipelined(kernel), kernel


@pytest.mark.parametrize(
    ("arch", "head_dim", "dtype", "cache"),
    [
        (89, 128, torch.bfloat16, torch.float8_e4m3fn),
        *((90, n, torch.bfloat16, torch.float8_e4m3fn) for n in (64, 128, 256)),
        (90, 128, torch.bfloat16, torch.float16),
        *((arch, 256, torch.bfloat16, torch.float32) for arch in (80, 86, 89, 90, 100, 120)),
        *((arch, 128, torch.float32, torch.float32) for arch in (90, 100)),
    ],
)
def test_compiled_for_other_types(arch: int, head_dim: int, dtype: torch.dtype, cache: torch.dtype) -> None:
    """Also where sequences are many, the next tile of a cache of another type is on its way meanwhile."""
    prompt, decode, _ = compile_attention(arch, 32, 8, head_dim, cache, {}, dtype)
    with mock.patch.object(module, "WAVES", 0):
        _, many, _ = compile_attention(arch, 32, 8, head_dim, cache, {}, dtype)
    assert prompt.layouts == decode.layouts and prompt.instructions == decode.instructions == many.instructions
    assert len(prompt.instructions) == (dtype != torch.float32), "no tensor core multiplies float32 as such"
    for kernel in (prompt, decode, many):
        assert is_pipelined(kernel) or dtype == torch.float32, kernel


def is_pipelined(kernel: Compiled) -> bool:
    """Whether keys and values are copied 16 bytes a thread, and where there is room for it the next tile is on its way
    while one is multiplied."""
    large = kernel.arch in (80, 90, 100)
    return "cp.async.cg.shared.global [" in kernel.ptx and (
        not large or re.search(r"cp\.async\.wait_group\s+(0x)?3;", kernel.ptx) is not None
    )


def compile_attention(
    arch: int, heads: int, kv_heads: int, head_dim: int, cache: torch.dtype, options: dict,
    dtype: torch.dtype = torch.bfloat16,
) -> list[Compiled]:  # fmt: skip
    batch = paged.Batch(meta(9), meta(8), meta(8, 512), meta(4096), meta(4096), 8192)
    q, caches = meta(4096, heads * head_dim, dtype=dtype), meta(100, 16, kv_heads, head_dim, dtype=cache)
    options = {"window": 0, "softcap": 0.0, "scale": 0.1, "decode": False, **options}
    options["sinks"] = meta(heads, dtype=torch.float32) if options.get("sinks") else None
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return compiled(lambda: attention(q, caches, caches, batch, **shape, **options), arch)
