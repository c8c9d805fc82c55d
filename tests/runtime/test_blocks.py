"""Blocks of the cache, copied out and in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny import MODELS, Tiny
from tests.runtime.test_cpu import greedy, load, plan

PROMPT = list(range(5, 25))


def named(name: str) -> Tiny:
    return next(model for model in MODELS if model.name == name)


@pytest.fixture(params=["f32", "f16", "q8_0", "q8_0/f16"])
def runtimes(request: pytest.FixtureRequest, tmp_path: Path):
    path = named("llama").write_folder(tmp_path / "llama")
    return [load(path, kv_cache_dtype=request.param) for _ in range(2)]


def test_what_is_copied_is_as_if_computed(runtimes) -> None:
    one, other = runtimes
    expected = greedy(one, PROMPT, 9)
    block = one.read_block(0)
    assert block.dtype == np.uint8 and block.shape == (one.block_bytes(16),) and block.any()
    assert not other.read_block(0).any()
    other.write_block(0, block)
    assert (other.read_block(0) == block).all() and not other.read_block(1).any()
    assert one.identity() == other.identity()
    tokens = [int(other.run(plan(PROMPT[16:], 16, [3])).tokens[0])]
    for position in range(20, 28):
        tokens.append(int(other.run(plan(tokens[-1:], position, [0])).tokens[0]))
    assert tokens == expected


def test_blocks_that_are_not_there(runtimes) -> None:
    runtime, _ = runtimes
    block = runtime.read_block(7)
    for number in (-1, 8, 2**40):
        with pytest.raises(IndexError, match="the cache has 8 blocks"):
            runtime.read_block(number)
        with pytest.raises(IndexError, match="the cache has 8 blocks"):
            runtime.write_block(number, block)
    for wrong in (block[:-1], np.append(block, block[:1]), block[:0]):
        with pytest.raises(ValueError, match=f"a block of the cache has {len(block)} bytes"):
            runtime.write_block(0, wrong)
    for wrong in (block.view(np.int8), np.repeat(block, 2)[::2]):
        with pytest.raises(TypeError):
            runtime.program.read_block(0, wrong)


def test_identities_differ_where_models_do(tmp_path: Path) -> None:
    for name in ("llama", "qwen2"):
        named(name).write_folder(tmp_path / name)
    one, other, typed = (
        load(tmp_path / name, kv_cache_dtype=dtype).identity()
        for name, dtype in (("llama", "f32"), ("qwen2", "f32"), ("llama", "f16"))
    )
    assert one["weights"] == typed["weights"] != other["weights"]
    assert one["cache type"] == other["cache type"] != typed["cache type"]
    assert load(tmp_path / "llama", max_model_len=32).identity() == load(tmp_path / "llama").identity()
    fast = load(tmp_path / "llama", numerics="fast").identity()
    assert fast["instruction set"] == f"{one['instruction set']}, fast numerics"


def test_identities_differ_where_rotary_embeddings_do(tmp_path: Path) -> None:
    """LongRoPE's factors are those of the longest sequence, others' are in the configuration alone."""
    long = named("phi3-long").write_folder(tmp_path / "long")
    yarn = named("llama-yarn")
    scaling = yarn.config["rope_scaling"]
    other = replace(yarn, config=yarn.config | {"rope_scaling": scaling | {"factor": 2 * scaling["factor"]}})
    paths = yarn.write_folder(tmp_path / "yarn"), other.write_folder(tmp_path / "other")
    pairs = [[(long, {"max_model_len": length}) for length in (16, 64)], [(path, {}) for path in paths]]
    for pair in pairs:
        one, two = (dict(load(path, **settings).identity()) for path, settings in pair)
        assert one.pop("graph") != two.pop("graph") and one == two
