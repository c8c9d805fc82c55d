"""Weights that are not finite are found and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.blocks import HALVES, random_blocks, set_halves
from trivet.weights.check import BadBlock, bad_tensors
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.tensor import TensorInfo


def write(path: Path, tensors: dict[str, tuple[Format, np.ndarray]]) -> GGUFFile:
    """A file of tensors, each as rows `[..., bytes]`."""
    infos = [
        TensorInfo(name, (*rows.shape[:-1], rows.shape[-1] // fmt.block_bytes * fmt.block_size), fmt)
        for name, (fmt, rows) in tensors.items()
    ]
    with GGUFWriter(path, {"general.architecture": "llama"}, infos) as writer:
        for name, (_, rows) in tensors.items():
            writer.write(name, rows)
    return GGUFFile(path)


@pytest.mark.parametrize("fmt", [*HALVES, Format.IQ1_M], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scales_of_every_format(fmt: Format, bad: float, tmp_path: Path) -> None:
    blocks = random_blocks(fmt, (3, 2), np.random.default_rng(0))
    set_halves(fmt, blocks[2, 1], bad, bad)
    file = write(tmp_path / "m.gguf", {"blk.0.attn_q.weight": (fmt, blocks.reshape(3, -1))})
    (found,) = bad_tensors(file)
    assert (found.tensor, found.format, found.count) == ("blk.0.attn_q.weight", fmt.name, 1)
    assert (found.blocks[0].block, found.blocks[0].row) == (5, 2)
    assert fmt.block_size <= found.blocks[0].column < 2 * fmt.block_size
    assert found.blocks[0].value in ("nan", "inf", "-inf")


@pytest.mark.parametrize(
    ("fmt", "scale", "value", "others"),
    [
        (Format.MXFP4, 0, 0xFF, 0xFC),
        (Format.NVFP4, 0, 0x7F, 0x7E),
        (Format.NVFP4, 3, 0x7F, 0xFE),
        (Format.NVFP4, 2, 0xFF, 0x77),
    ],
)
@pytest.mark.parametrize("quants", [0x00, 0x11, 0x77])
def test_scales_that_compute_but_are_nan(
    fmt: Format, scale: int, value: int, others: int, quants: int, tmp_path: Path
) -> None:
    blocks = np.full((3, 2, fmt.block_bytes), quants, np.uint8)
    blocks[..., : 4 if fmt is Format.NVFP4 else 1] = others
    blocks[2, 1, scale] = value
    (found,) = bad_tensors(write(tmp_path / "m.gguf", {"a": (fmt, blocks.reshape(3, -1))}))
    assert (found.format, found.count) == (fmt.name, 1)
    assert found.blocks == [BadBlock(5, 2, fmt.block_size + 16 * scale, "nan")]


def test_floats_vectors_and_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.weights.check._CHUNK", 20)
    matrix, vector, good = np.ones((30, 4), np.float32), np.ones(5, np.float32), np.ones((2, 8), np.float16)
    matrix[7, 2], vector[3], matrix[10:] = np.nan, -np.inf, np.inf
    tensors = {"a": (Format.F32, matrix), "b": (Format.F32, vector), "c": (Format.F16, good)}
    file = write(tmp_path / "m.gguf", {name: (fmt, x.view(np.uint8)) for name, (fmt, x) in tensors.items()})
    seen: list[str] = []
    a, b = bad_tensors(file, lambda info: seen.append(info.name))
    assert seen == ["a", "b", "c"]
    assert (a.count, len(a.blocks)) == (81, 8)
    assert a.blocks[:2] == [BadBlock(30, 7, 2, "nan"), BadBlock(40, 10, 0, "inf")]
    assert b.blocks == [BadBlock(3, 0, 3, "-inf")]
