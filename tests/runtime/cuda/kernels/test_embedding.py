from __future__ import annotations

import pytest
import torch

from tests.blocks import dequantize as expected
from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.kernels.test_quantized import random_rows
from tests.runtime.cuda.kernels.values import meta, random
from trivet.runtime.cuda.kernels.embedding import embed
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import FORMATS
from trivet.weights.formats import Format

IDS = torch.tensor([3, 0, 8, 3], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense(dtype: torch.dtype) -> None:
    table = random(9, 1100, dtype=dtype)
    assert embed(IDS, Matrix(table), 2.5, dtype).equal((table[IDS].float() * 2.5).to(dtype))


@pytest.mark.parametrize("fmt", [Format.Q4_K, Format.Q6_K, Format.Q8_0], ids=lambda f: f.name)
def test_blocks(fmt: Format) -> None:
    width = 544 if fmt.block_size == 32 else 512
    data = random_rows(fmt, 9, width)
    table = torch.from_numpy(expected(fmt, data))
    y = embed(IDS, Matrix.packed(torch.from_numpy(data), fmt), 0.5, torch.float32)
    assert y.equal(table[IDS] * 0.5)


def test_ids_that_are_not_there() -> None:
    ids = torch.tensor([-1, 1, 9], dtype=torch.int32)
    data = torch.from_numpy(random_rows(Format.Q4_0, 9, 256))
    for table in (Matrix(random(9, 256)), Matrix.packed(data, Format.Q4_0)):
        y = embed(ids, table, 1.0, torch.float32)
        assert not y[0].any() and y[1].any() and not y[2].any()


@pytest.mark.parametrize(("arch", "formats"), [(80, [Format.Q4_K, Format.Q6_K]), (90, [*FORMATS])], ids=str)
def test_compiled(arch: int, formats: list[Format]) -> None:
    def calls() -> None:
        ids = meta(64, dtype=torch.int32)
        embed(ids, Matrix(meta(128256, 4096)), 1.0, torch.bfloat16)
        for fmt in formats:
            data = meta(32000, fmt.row_bytes(4096), dtype=torch.uint8)
            embed(ids, Matrix.packed(data, fmt), 1.0, torch.bfloat16)

    for kernel in compiled(calls, arch):
        assert kernel.stack == 0, kernel
