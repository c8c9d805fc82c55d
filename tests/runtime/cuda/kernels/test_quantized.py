"""Formats on the device: their layout there, and its meaning, against the `gguf` package."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.blocks import dequantize as expected
from tests.blocks import random_blocks
from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.kernels.values import meta
from trivet.runtime.cuda.kernels.quantized.blocks import FORMATS, Blocks, pack
from trivet.runtime.cuda.kernels.quantized.dequantize import dequantize
from trivet.weights.formats import Format


def random_rows(fmt: Format, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, row bytes]."""
    blocks = random_blocks(fmt, (rows, columns // fmt.block_size), np.random.default_rng(seed))
    return blocks.reshape(rows, -1)


def packed(rows: np.ndarray, fmt: Format) -> Blocks:
    return pack(torch.from_numpy(rows), fmt)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (33, 512)])
def test_bits(fmt: Format, rows: int, columns: int) -> None:
    data = random_rows(fmt, rows, columns)
    values = dequantize(packed(data, fmt), torch.float32)
    np.testing.assert_array_equal(values, expected(fmt, data))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.block_size == 32], ids=lambda f: f.name)
@pytest.mark.parametrize("columns", [32, 480, 896])
def test_columns_that_fill_no_unit(fmt: Format, columns: int) -> None:
    data = random_rows(fmt, 5, columns)
    values = dequantize(packed(data, fmt), torch.float32)
    np.testing.assert_array_equal(values, expected(fmt, data))


def test_all_exponents_of_mxfp4() -> None:
    data = random_rows(Format.MXFP4, 256, 32)
    data[:, 0] = np.arange(256)
    values = dequantize(packed(data, Format.MXFP4), torch.float32)
    np.testing.assert_array_equal(values, expected(Format.MXFP4, data))


def test_some_rows_in_another_dtype() -> None:
    data = random_rows(Format.Q4_K, 50, 256)
    values = dequantize(packed(data, Format.Q4_K), torch.float16, 7, 41)
    assert values.equal(torch.from_numpy(expected(Format.Q4_K, data)[7:41]).half())


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("columns", [32, 256, 896, 4096])
def test_size(fmt: Format, columns: int) -> None:
    if columns % fmt.block_size == 0:
        data = random_rows(fmt, 16, columns)
        assert packed(data, fmt).num_bytes <= 1.01 * data.nbytes


@pytest.mark.parametrize(("fmt", "columns"), [(Format.Q6_K, 512), (Format.Q5_0, 288)], ids=str)
def test_stack(fmt: Format, columns: int) -> None:
    data = np.stack([random_rows(fmt, 9, columns, seed) for seed in range(3)])
    stack = packed(data, fmt)
    alone = packed(data[2], fmt)
    assert stack.quants[2].equal(alone.quants)
    assert stack.header[2].equal(alone.header)
    assert stack.high is not None and alone.high is not None and stack.high[2].equal(alone.high)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="IQ2_XS"):
        pack(torch.zeros(2, 74, dtype=torch.uint8), Format.IQ2_XS)
    with pytest.raises(ValueError, match="19 bytes"):
        pack(torch.zeros(2, 19, dtype=torch.uint8), Format.Q4_0)


@pytest.mark.parametrize(("arch", "formats"), [(80, [Format.Q4_K, Format.Q6_K]), (90, [*FORMATS])], ids=str)
def test_compiled(arch: int, formats: list[Format]) -> None:
    def calls() -> None:
        for fmt in formats:
            for columns in (4096, 2880)[: 1 + (fmt.block_size == 32)]:
                dequantize(pack(meta(4096, fmt.row_bytes(columns), dtype=torch.uint8), fmt), torch.bfloat16)

    for kernel in compiled(calls, arch):
        assert kernel.stack == kernel.shared == 0, kernel
        # 16 bytes of a thread at a time; 8 where runs come in halves (Q6_K).
        assert re.search(r"st\.global\.v[24]\.b32", kernel.ptx), kernel
