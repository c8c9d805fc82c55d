"""Products with weights, against float64, and bit for bit between numbers of rows."""

from __future__ import annotations

import pytest
import torch

from tests.blocks import dequantize as expected
from tests.runtime.cuda.compiled import INSTRUCTIONS, compiled
from tests.runtime.cuda.kernels.test_quantized import random_rows
from tests.runtime.cuda.kernels.values import error, meta, random
from trivet.runtime.cuda.kernels import device
from trivet.runtime.cuda.kernels import linear as module
from trivet.runtime.cuda.kernels.linear import kernel_of, kernel_rows, linear, splits
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import FORMATS
from trivet.weights.formats import Format

DENSE = {None: torch.bfloat16, Format.F16: torch.float16}
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("numerics", module.NUMERICS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("tokens", "columns", "rows"), [(1, 64, 40), (17, 300, 70), (70, 1056, 65)])
def test_dense(tokens: int, columns: int, rows: int, dtype: torch.dtype, numerics: str) -> None:
    x, w, bias = random(tokens, columns, dtype=dtype), random(rows, columns, dtype=dtype, seed=1), random(rows, seed=2)
    y = linear(x, Matrix(w), bias, numerics=numerics)
    assert y.dtype == dtype
    assert error(y, x.double() @ w.double().T + bias) < TOLERANCE[dtype]


def test_float32_weights_and_results_of_bfloat16_rows() -> None:
    x, w = random(3, 64, dtype=torch.bfloat16), random(40, 64, seed=1)
    y = linear(x, Matrix(w), dtype=torch.float32)
    assert y.dtype == torch.float32
    assert error(y, x.double() @ w.double().T) < 1e-6


@pytest.mark.parametrize("numerics", module.NUMERICS)
@pytest.mark.parametrize("tokens", [3, module.FUSED_ROWS + 1])
@pytest.mark.parametrize("fmt", [None, Format.Q8_0])
def test_results_go_where_they_are_wanted(fmt: Format | None, tokens: int, numerics: str) -> None:
    x, w = random(tokens, 64, dtype=torch.bfloat16), random(40, 64, dtype=torch.bfloat16, seed=1)
    matrix = Matrix.packed(torch.from_numpy(random_rows(fmt, 40, 64)), fmt) if fmt else Matrix(w)
    out = torch.full((tokens, 48), torch.nan)[:, :40]
    settings = {"numerics": numerics, "dtype": torch.float32}
    assert linear(x, matrix, out=out, **settings) is out
    assert torch.equal(out, linear(x, matrix, **settings))


@pytest.mark.parametrize("tokens", [3, 70])
def test_float16_weights_lose_nothing_beside_bfloat16(tokens: int) -> None:
    x, w = random(tokens, 300, dtype=torch.bfloat16), random(40, 300, dtype=torch.float16, seed=1)
    w[0, :3] = torch.tensor([6e-8, 65504, 2**-14 - 2**-24])
    for numerics in module.NUMERICS:
        y = linear(x, Matrix(w), numerics=numerics, dtype=torch.float32)
        assert error(y, x.double() @ w.double().T) < 1e-6


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_blocks(fmt: Format) -> None:
    data = random_rows(fmt, 70, 512)
    w = torch.from_numpy(expected(fmt, data))
    x = random(3, 512)
    assert error(linear(x, Matrix.packed(torch.from_numpy(data), fmt)), x.double() @ w.double().T) < 1e-6


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.block_size == 32], ids=lambda f: f.name)
@pytest.mark.parametrize("columns", [64, 288, 2272])
def test_columns_that_fill_no_unit(fmt: Format, columns: int) -> None:
    """Some of them in several parts, of which the last have nothing."""
    data = random_rows(fmt, 10, columns)
    x, w = random(2, columns), torch.from_numpy(expected(fmt, data))
    assert error(linear(x, Matrix.packed(torch.from_numpy(data), fmt)), x.double() @ w.double().T) < 1e-6


@pytest.mark.usefixtures("chains")
@pytest.mark.parametrize(
    ("fmt", "rows", "columns"),
    [
        *[(None, 70, 256), (None, 65, 1024), (Format.F16, 65, 1024)],
        *[(Format.Q4_0, 65, 1024), (Format.Q6_K, 70, 256), (Format.Q8_0, 70, 256), (Format.Q5_1, 65, 1120)],
    ],
    ids=str,
)
def test_rows_beside(fmt: Format | None, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel and one order for all: parts of K together or one by one, blocks unpacked inside or before."""
    monkeypatch.setattr(module, "FUSED_ROWS", 40)
    monkeypatch.setattr(module, "PARALLEL_ROWS", 64)
    if fmt in DENSE:
        matrix = Matrix(random(rows, columns, dtype=DENSE[fmt], seed=1))
    else:
        matrix = Matrix.packed(torch.from_numpy(random_rows(fmt, rows, columns)), fmt)
    assert splits(matrix, torch.bfloat16) == (1 if columns == 256 or fmt is None else 2)
    x, bias = random(70, columns, dtype=torch.bfloat16), random(rows, seed=2)
    together = linear(x, matrix, bias)
    for count in (1, 2, 7, 33, 64):
        part = x.repeat(1, 2)[-count:, :columns]  # rows at a distance
        assert linear(part, matrix, bias).equal(together[-count:]), count


def test_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FUSED_ROWS", 0)
    monkeypatch.setattr(module, "PROGRAMS", 1)
    monkeypatch.setattr(module, "PANEL", 0)
    data = random_rows(Format.Q4_0, 300, 64)
    x, bias, w = random(2, 64), random(300, seed=1), torch.from_numpy(expected(Format.Q4_0, data))
    for numerics in module.NUMERICS:
        y = linear(x, Matrix.packed(torch.from_numpy(data), Format.Q4_0), bias, numerics=numerics)
        assert error(y, x.double() @ w.double().T + bias) < 1e-6


def test_no_rows() -> None:
    assert linear(random(0, 64), Matrix(random(3, 64))).shape == (0, 3)


@pytest.mark.parametrize(
    ("fmt", "arch", "expected"),
    [(None, 90, [1, 1, 1, 1, 1]), (None, 80, [2, 2, 1, 8, 1]), (Format.Q8_0, 90, [4, 4, 1, 8, 1])],
    ids=str,
)
def test_parts(fmt: Format | None, arch: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hopper's copy engine needs none; whoever unpacks needs more."""
    monkeypatch.setattr(device, "capability", lambda place: arch)
    for shape, parts in zip(
        [(4096, 4096), (6144, 14336), (28672, 4096), (1024, 4096), (64, 512)], expected, strict=True
    ):
        data = meta(*shape) if fmt is None else meta(shape[0], fmt.row_bytes(shape[1]), dtype=torch.uint8)
        matrix = Matrix(data) if fmt is None else Matrix.packed(data, fmt)
        assert splits(matrix, torch.bfloat16) == parts, shape


@pytest.mark.parametrize("fmt", [None, Format.Q4_K, Format.F16], ids=str)
@pytest.mark.parametrize("arch", [80, 90])
def test_all_kernels_are_among_those_of_a_few_numbers_of_rows(
    fmt: Format | None, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "capability", lambda place: arch)
    matrices = []
    for shape in [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]:
        packed = fmt in FORMATS and meta(shape[0], fmt.row_bytes(shape[1]), dtype=torch.uint8)
        dense = torch.bfloat16 if fmt is None else torch.float16
        matrices.append(Matrix.packed(packed, fmt) if fmt in FORMATS else Matrix(meta(*shape, dtype=dense)))
    rows = kernel_rows(matrices, torch.bfloat16, 8192)
    assert len(rows) < 10
    compiled_kernels = {kernel_of(matrix, n, torch.bfloat16) for matrix in matrices for n in rows}
    for matrix in matrices:
        assert {kernel_of(matrix, n, torch.bfloat16) for n in range(1, 8193, 7)} <= compiled_kernels


SHAPES = [(24, 512), (256, 4096), (1000, 250), (6144, 4096), (4096, 14336), (128256, 4096)]


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("multiprocessors", [2, 58, 132])
@pytest.mark.parametrize("most", [1, 16, 100, 128, 500, 8192, 70_001])
def test_numbers_of_rows_are_those_of_trying_all(
    arch: int, multiprocessors: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "capability", lambda place: arch)
    monkeypatch.setattr(device, "multiprocessors", lambda place: multiprocessors)
    dense = [Matrix(meta(*shape, dtype=dtype)) for shape in SHAPES for dtype in (torch.bfloat16, torch.float16)]
    packed = [
        Matrix.packed(meta(rows, fmt.row_bytes(columns), dtype=torch.uint8), fmt)
        for rows, columns in SHAPES
        for fmt in (Format.Q4_K, Format.Q8_0)
        if columns % 256 == 0
    ]
    for matrices in ([*dense, *packed] if most < 8192 else [dense[0]], dense[:2], packed[-1:]):
        expected: list[int] = []
        found: set[object] = set()
        for tokens in [*(n for n in (16, 32, 64) if n < most), *range(128, most, 128), most]:
            kernels = {kernel_of(matrix, tokens, torch.bfloat16) for matrix in matrices}
            if not kernels <= found:
                expected.append(tokens)
                found |= kernels
        assert kernel_rows(matrices * 3, torch.bfloat16, most) == expected


def test_numbers_of_rows_are_soon_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, which memory may not suffice for."""
    calls = []
    monkeypatch.setattr(module, "kernel_of", lambda *product: (calls.append(product), kernel_of(*product))[1])
    kernel_rows([Matrix(meta(*shape, dtype=torch.bfloat16)) for shape in SHAPES], torch.bfloat16, 1 << 24)
    assert len(calls) < 5000


def check_compiled(matrix: Matrix, tokens: list[int], arch: int) -> None:
    def calls() -> None:
        for count in tokens:
            linear(meta(count, matrix.columns), matrix, meta(matrix.rows))

    for kernel in compiled(calls, arch):
        assert kernel.stack <= (8 if arch in (80, 100) else 0) and not kernel.loop_spills, kernel
        if kernel.name in ("product_kernel", "bulk_kernel", "persistent_kernel"):
            # One family of instructions for all tiles: so results depend on none.
            assert kernel.instructions == {INSTRUCTIONS.get(arch, "mma.sync")}, kernel
            assert arch in INSTRUCTIONS or "mma.sync.aligned.m16n8k16" in kernel.ptx, kernel


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_float32_is_multiplied_as_such(arch: int) -> None:
    """By no tensor core, which takes it as tf32."""
    weights = Matrix(meta(512, 1024, dtype=torch.float32))

    def calls() -> None:
        for tokens in (1, 64):
            linear(meta(tokens, 1024), weights, dtype=torch.float32)

    for kernel in compiled(calls, arch):
        assert kernel.instructions == set(), kernel


@pytest.mark.parametrize(
    ("shape", "arch"), [*(((4096, 4096), arch) for arch in (80, 89, 90, 100)), ((28672, 4096), 90)]
)
def test_compiled(shape: tuple[int, int], arch: int) -> None:
    check_compiled(Matrix(meta(*shape)), [1, 32, 64, 256, 8192], arch)
    if shape[0] == 4096:
        check_compiled(Matrix(meta(*shape, dtype=torch.float16)), [1, 32, 64, 8192], arch)


TOKENS = {Format.Q4_K: [1, 32, 64, 256], Format.Q6_K: [1, 64], Format.Q8_0: [1, 64]}
"""The tiles of a few formats; the others differ from these in how they are unpacked."""


@pytest.mark.parametrize(
    ("fmt", "arch"),
    [
        *((fmt, 90) for fmt in FORMATS),
        *((Format.Q4_K, 80), (Format.Q6_K, 80), (Format.Q8_0, 120), (Format.Q6_K, 100)),
    ],
    ids=str,
)
def test_compiled_for_blocks(fmt: Format, arch: int) -> None:
    for columns in (1024, 896)[: 1 + (fmt.block_size == 32)]:
        data = meta(1024, fmt.row_bytes(columns), dtype=torch.uint8)
        check_compiled(Matrix.packed(data, fmt), TOKENS.get(fmt, [1]), arch)
