"""Matrix products: exactness, batch invariance, instruction sets."""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import BLOCK_FORMATS, HALVES, SMALL, dequantize, random_blocks, set_halves
from trivet import _native
from trivet.weights.formats import Format

FLOATS = [Format.F32, Format.F16, Format.BF16]
FORMATS = FLOATS + BLOCK_FORMATS
# Columns that share one int8 scale of the activations.
ACTIVATION_BLOCK = {fmt: 32 if fmt in SMALL else 256 for fmt in BLOCK_FORMATS}
MINIMA = {Format.Q4_1, Format.Q5_1, Format.Q2_K, Format.Q4_K, Format.Q5_K}
EPSILON = 2.0**-23

each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
each_block_format = pytest.mark.parametrize("fmt", BLOCK_FORMATS, ids=lambda f: f.name)


def random_weights(fmt: Format, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """GGUF rows [rows, bytes]: any quants, scales of both signs."""
    rng = np.random.default_rng(seed)
    if fmt in FLOATS:
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType(fmt.type_id)).view(np.uint8)
    return random_blocks(fmt, (rows, columns // fmt.block_size), rng).reshape(rows, -1)


def random_rows(m: int, columns: int, seed: int = 1) -> np.ndarray:
    """Activations of very different sizes, one row and one column to the next."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((m, columns)) * np.exp(2 * rng.standard_normal((m, columns)))).astype(np.float32)


def quantized(fmt: Format, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels make of x, and half a quantisation step for each value, as float64."""
    if fmt is Format.BF16 and _native.system_info()["isa"] in ("avx512_bf16", "amx"):
        bits = x.view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32).astype(np.float64)
        return rounded, np.abs(rounded) * 2.0**-8
    if fmt not in ACTIVATION_BLOCK:
        return x.astype(np.float64), np.zeros(x.shape)
    blocks = x.reshape(len(x), -1, ACTIVATION_BLOCK[fmt])
    peak = np.abs(blocks).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(peak >= np.float32(2**-100), np.float32(127) / peak, np.float32(0))
    scale = np.where(inverse > 0, peak / np.float32(127), np.float32(0)).astype(np.float64)
    values = np.rint(blocks * inverse).astype(np.float64) * scale
    return values.reshape(x.shape), np.broadcast_to(scale / 2, blocks.shape).reshape(x.shape)


def matmul(fmt: Format, data: np.ndarray, x: np.ndarray, threads: int = 1) -> np.ndarray:
    return _native.matmul(fmt.type_id, data.reshape(-1), len(data), x.shape[1], x, threads)


def check_product(fmt: Format, data: np.ndarray, x: np.ndarray) -> None:
    """Only float32 rounding away from the product of the quantised rows, so within their error of the true one."""
    weights = dequantize(fmt, data).astype(np.float64)
    values, half_step = quantized(fmt, x)
    y = matmul(fmt, data, x)
    rounding = 64 * EPSILON * (np.abs(values) @ np.abs(weights).T + _min_terms(fmt, data, values))
    assert np.all(np.abs(y - values @ weights.T) <= rounding + 1e-30)
    error = half_step @ np.abs(weights).T
    assert np.all(np.abs(y - x.astype(np.float64) @ weights.T) <= error * (1 + 1e-5) + rounding + 1e-30)


def _min_terms(fmt: Format, data: np.ndarray, values: np.ndarray) -> np.ndarray | float:
    """Scale times integer and minimum are added, which may be far larger than their sum."""
    if fmt not in MINIMA:
        return 0.0
    shifted = data.reshape(len(data), -1, fmt.block_bytes).copy()
    set_halves(fmt, shifted, 0.0)
    return np.abs(values) @ np.abs(dequantize(fmt, shifted.reshape(len(data), -1)).astype(np.float64)).T


@each_format
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_product(fmt: Format, rows: int) -> None:
    for blocks, m in [(1, 1), (3, 2), (2, 7), (1, 40), (5, 16)]:
        columns = blocks * max(ACTIVATION_BLOCK.get(fmt, 64), fmt.block_size)
        check_product(fmt, random_weights(fmt, rows, columns), random_rows(m, columns))


@pytest.mark.parametrize("fmt", [Format.F32, Format.F16, Format.BF16], ids=lambda f: f.name)
@pytest.mark.parametrize("columns", [1, 2, 31, 127, 129, 172, 255])
def test_float_weights_have_any_number_of_columns(fmt: Format, columns: int) -> None:
    check_product(fmt, random_weights(fmt, 19, columns), random_rows(9, columns))


@st.composite
def bfloat16(draw: st.DrawFn, rows: int, columns: int) -> np.ndarray:
    """Any bits, but most often of few exponents: uint16 [rows, columns]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    normal = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(2.0 ** draw(st.integers(-90, 90)))
    weights = (normal.view(np.uint32) >> 16).astype(np.uint16)
    for share in draw(st.lists(st.sampled_from([1e-4, 1e-3, 0.01, 0.5]), max_size=2)):
        others = rng.random((rows, columns)) < share
        weights[others] = draw(st.sampled_from([0, 0x8000, 1, 0x3F80])) or rng.integers(0, 0x4000, others.sum())
    return weights


@settings(max_examples=60)
@given(
    st.data(),
    st.integers(1, 40),
    st.integers(1, 700),
    st.sampled_from([1, 7, 33, 90]),
)
def test_bfloat16_of_few_exponents(data: st.DataObject, rows: int, columns: int, m: int) -> None:
    """They take 12 bits with tiles of AMX, and multiply as in 16, which any bits beside them make necessary."""
    weights = data.draw(bfloat16(rows, columns))
    rest = np.random.default_rng(0).integers(0, 0x7F80, (16, columns), np.uint16)
    x = random_rows(m, columns)
    few, all_ = (
        _native.PackedMatrix(Format.BF16.type_id, part.view(np.uint8).reshape(-1), len(part), columns)
        for part in (weights, np.concatenate([weights, rest]))
    )
    np.testing.assert_array_equal(few.multiply(x), all_.multiply(x)[:, :rows])


def test_bfloat16_takes_12_bits() -> None:
    data = random_weights(Format.BF16, 64, 4096)
    matrix = _native.PackedMatrix(Format.BF16.type_id, data.reshape(-1), 64, 4096)
    bits = 12 + 1 / 8 if _native.system_info()["isa"] == "amx" else 16
    assert matrix.bytes == 64 * 4096 * bits / 8


def test_a_program_packs_bfloat16_again_that_has_too_many_exponents() -> None:
    """Only those matrices of a stack, wherever in them it is found."""
    rows, columns, m = 400, 512, 5
    stack = np.stack([random_weights(Format.BF16, rows, columns, seed) for seed in range(3)])
    stack[1, -1] = np.random.default_rng(0).integers(0, 0x7F80, columns, np.uint16).view(np.uint8)
    sizes = [_native.PackedMatrix(Format.BF16.type_id, w.reshape(-1), rows, columns).bytes for w in stack]
    assert sizes[1] == 2 * rows * columns
    program = _native.Program(2, [(0, columns), (1, rows)], "f32", [])
    program.add_matrices(Format.BF16.type_id, columns, stack)
    assert program.weight_bytes == sum(sizes)

    x = random_rows(m, columns)
    program.input(0)
    program.linear(0, [(1, program.add_matrices(Format.BF16.type_id, columns, stack[1:2]), None)])
    program.output(1)
    at = np.arange(m, dtype=np.int32)
    starts, lengths, tables = (np.array(v, np.int32) for v in ([0, m], [m], [[0]]))
    y = np.array(program.run(at, at, starts, lengths, tables, at, x))
    np.testing.assert_array_equal(y, matmul(Format.BF16, stack[1], x))


@settings(max_examples=60)
@given(
    fmt=st.sampled_from(FORMATS),
    rows=st.integers(1, 50),
    blocks=st.integers(1, 9),
    m=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_any_shape(fmt: Format, rows: int, blocks: int, m: int, seed: int) -> None:
    columns = blocks * fmt.block_size if fmt in ACTIVATION_BLOCK else blocks * 37 + seed
    check_product(fmt, random_weights(fmt, rows, columns, seed), random_rows(m, columns, seed))


@each_block_format
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xF0, 0x0F, 0xFF])
def test_extreme_integers_do_not_overflow(fmt: Format, byte: int) -> None:
    """Every weight and every activation at the end of its range, in each combination of signs."""
    data = np.full((16, 4 * fmt.num_bytes((256,))), byte, np.uint8)
    blocks = data.reshape(16, -1, fmt.block_bytes)
    set_halves(fmt, blocks, 1.0, 1.0)
    if fmt is Format.MXFP4:
        blocks[:, :, 0] = 128
    x = np.ones((4, 1024), np.float32)
    x[1] = -1
    x[2, 1::2] = -1
    x[3, 2::4] = x[3, 3::4] = -1
    check_product(fmt, data, x)
    check_product(fmt, data, np.tile(x, (5, 1)))


@each_format
def test_a_row_does_not_depend_on_its_company(fmt: Format) -> None:
    rows, columns, m = 53, 768, 133
    data, x = random_weights(fmt, rows, columns), random_rows(m, columns)
    matrix = _native.PackedMatrix(fmt.type_id, data.reshape(-1), rows, columns)
    y = matrix.multiply(x)
    for count in range(1, 41):
        first = 3 * count % (m - count)
        np.testing.assert_array_equal(matrix.multiply(x[first : first + count]), y[first : first + count])
    for i in range(0, m, 11):
        np.testing.assert_array_equal(matrix.multiply(x[i : i + 1])[0], y[i])
    for threads in (2, 3, 4, 9):
        np.testing.assert_array_equal(matrix.multiply(x, threads), y)
    for part in (slice(0, 1), slice(5, 23), slice(16, 53), slice(52, 53)):
        np.testing.assert_array_equal(matmul(fmt, data[part], x[:5]), y[:5, part])


@each_format
@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("columns", [256, 4096])
def test_a_scale_of_the_matrix(fmt: Format, numerics: str, columns: int) -> None:
    """Whole sums and those that columns are cut into, of whole panels and of a part of one: a scale of 1/2 halves
    every bit pattern alike.
    """
    rows = 53
    data, x = random_weights(fmt, rows, columns)[None], random_rows(257, columns)

    def product(m: int, scale: float | None) -> np.ndarray:
        program = _native.Program(2, [(0, columns), (1, rows)], "bf16", [], numerics)
        program.input(0)
        scales = None if scale is None else np.array([scale], np.float32)
        program.linear(0, [(1, program.add_matrices(fmt.type_id, columns, data, scales), None)])
        program.output(1)
        at = np.arange(m, dtype=np.int32)
        starts, lengths, tables = (np.array(v, np.int32) for v in ([0, m], [m], [[0]]))
        return np.array(program.run(at, at, starts, lengths, tables, at, x[:m]))

    for m in (1, 9, 40, 257):
        plain = product(m, None)
        assert np.isfinite(plain).all()
        np.testing.assert_array_equal(product(m, 0.5), plain / 2)


@each_format
@pytest.mark.parametrize("m", [64 + 9, 256 + 7, 256 + 25])
def test_many_rows(fmt: Format, m: int) -> None:
    """A few rows after those of a whole pass over the weights."""
    data, x = random_weights(fmt, 35, 256), random_rows(m, 256)
    y = matmul(fmt, data, x)
    for part in (slice(0, 12), slice(m - 5, m), slice(m - 40, m), slice(50, 70)):
        np.testing.assert_array_equal(matmul(fmt, data, x[part]), y[part])


@pytest.mark.parametrize(
    "fmt",
    [
        *(Format.Q4_0, Format.Q5_1, Format.NVFP4, Format.Q4_K, Format.Q6_K),
        *(Format.IQ1_S, Format.IQ2_XS, Format.IQ2_S, Format.IQ3_S),
    ],
    ids=lambda f: f.name,
)
@pytest.mark.parametrize(("rows", "columns", "m"), [(40, 4864, 271), (546, 2560, 271), (40, 11520, 20)])
def test_columns_and_panels_in_parts(fmt: Format, rows: int, columns: int, m: int) -> None:
    """More columns than a slab, more panels than their sums have room for, more rows than a pass."""
    data, x = random_weights(fmt, rows, columns), random_rows(m, columns)
    matrix = _native.PackedMatrix(fmt.type_id, data.reshape(-1), rows, columns)
    y = matrix.multiply(x)
    for part in (slice(0, 5), slice(120, 160), slice(-20, None)):
        np.testing.assert_array_equal(matrix.multiply(x[part]), y[part])


@each_format
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_spoils_its_row_alone(fmt: Format, bad: float) -> None:
    data, x = random_weights(fmt, 20, 512), random_rows(20, 512)
    clean = matmul(fmt, data, x)
    x[3, 300] = bad
    y = matmul(fmt, data, x)
    assert not np.isfinite(y[3]).any()
    np.testing.assert_array_equal(np.delete(y, 3, axis=0), np.delete(clean, 3, axis=0))


@pytest.mark.parametrize("fmt", [*HALVES, Format.IQ1_M], ids=lambda f: f.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_spoils_its_column_alone(fmt: Format, bad: float) -> None:
    data, x = random_weights(fmt, 20, 512), random_rows(20, 512)
    clean = matmul(fmt, data, x)
    set_halves(fmt, data.reshape(20, -1, fmt.block_bytes)[7, 0], bad)
    y = matmul(fmt, data, x)
    assert not np.isfinite(y[:, 7]).any()
    np.testing.assert_array_equal(np.delete(y, 7, axis=1), np.delete(clean, 7, axis=1))


@each_block_format
def test_a_panel_is_as_large_as_its_blocks(fmt: Format) -> None:
    data = random_weights(fmt, 64, 4096)
    most = {Format.IQ1_S: 1.161, Format.IQ1_M: 1.143, Format.IQ2_S: 1.171}.get(fmt, 1.041)
    assert data.nbytes <= _native.PackedMatrix(fmt.type_id, data.reshape(-1), 64, 4096).bytes <= most * data.nbytes


@each_format
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-31, 1e-29, 1e30])
def test_rows_of_any_size(fmt: Format, size: float) -> None:
    columns = 512
    x = (random_rows(3, columns).clip(-9, 9) * size).astype(np.float32)
    check_product(fmt, random_weights(fmt, 17, columns), x)


def test_empty() -> None:
    assert matmul(Format.F32, np.zeros((3, 16), np.uint8), np.zeros((0, 4), np.float32)).shape == (0, 3)
    assert matmul(Format.F32, np.zeros((0, 16), np.uint8), np.zeros((2, 4), np.float32)).shape == (2, 0)


def test_arguments_that_do_not_fit() -> None:
    data, x = random_weights(Format.Q8_0, 2, 64), random_rows(1, 64)
    with pytest.raises(ValueError, match="x has 32 columns, the matrix 64"):
        _native.PackedMatrix(8, data.reshape(-1), 2, 64).multiply(x[:, :32].copy())
    with pytest.raises(ValueError, match="threads is 0"):
        matmul(Format.Q8_0, data, x, threads=0)
    with pytest.raises(ValueError, match="got 136 bytes for 3 rows of 68 bytes"):
        _native.matmul(8, data.reshape(-1), 3, 64, x)
    with pytest.raises(ValueError, match="48 columns are not whole Q8_0 blocks of 32"):
        _native.matmul(8, data.reshape(-1), 2, 48, x)
    with pytest.raises(ValueError, match="tensor type 26 is not a format of weights"):
        _native.matmul(26, data.reshape(-1), 2, 64, x)


INFO = _native.system_info()


def run_python(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "TRIVET_ISA": isa}, capture_output=True, text=True
    )


def test_system_info() -> None:
    info = _native.system_info()
    assert info["isa"] in info["available"]
    assert info["available"][0] == "generic"
    assert info["failed_trial"] == []
    assert info["cores"] >= 1


@pytest.mark.parametrize("isa", _native.system_info()["available"])
def test_an_instruction_set_can_be_forced(isa: str) -> None:
    result = run_python(isa, "-c", "from trivet import _native; print(_native.system_info()['isa'])")
    assert result.stdout.strip() == isa, result.stderr


def test_an_unknown_instruction_set_fails_the_import() -> None:
    result = run_python("sse9", "-c", "import trivet._native")
    assert result.returncode != 0
    assert "ImportError: TRIVET_ISA=sse9 cannot run here; this processor offers generic" in result.stderr


@pytest.mark.parametrize("isa", INFO["available"])
@pytest.mark.parametrize("other", INFO["available"])
def test_kernels_of_all_instruction_sets_agree(isa: str, other: str) -> None:
    """By the trial that a start makes; where roundings differ they are seen, so that it does compare."""
    difference = _native.kernel_difference(isa, other)
    assert difference < 0.02
    # Fast numerics of those with vectors of 16 lanes are not exact ones.
    same = isa == other in ("generic", "avx2")
    assert (difference == 0) == same


def test_an_instruction_set_that_is_not_there_has_no_kernels() -> None:
    with pytest.raises(ValueError, match="there is no instruction set sse9 here"):
        _native.kernel_difference("generic", "sse9")


@pytest.mark.skipif("TRIVET_ISA" in os.environ, reason="these are the tests of one instruction set")
@pytest.mark.parametrize("isa", [*itertools.takewhile(lambda isa: isa != INFO["isa"], INFO["available"])])
def test_the_lesser_instruction_sets(isa: str) -> None:
    """All of the above again."""
    result = run_python(isa, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__)
    assert result.returncode == 0, result.stdout


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells how much memory is in use")
def test_memory_prepared_for_weights_is_taken_by_them_and_the_rest_goes_back() -> None:
    weights, x = random_weights(Format.F32, 1024, 2048).reshape(-1), random_rows(2, 2048)
    expected = _native.matmul(Format.F32.type_id, weights, 1024, 2048, x)
    before, size = resident_bytes(), 64 << 20
    _native.expect_weights(size)
    deadline = time.monotonic() + 20
    while resident_bytes() < before + size and time.monotonic() < deadline:
        time.sleep(0.01)
    prepared = resident_bytes()
    matrix = _native.PackedMatrix(Format.F32.type_id, weights, 1024, 2048)
    if prepared >= before + size:  # else this system cannot
        assert resident_bytes() < prepared + (2 << 20)
    _native.expect_weights(0)
    assert resident_bytes() < before + (12 << 20)
    assert (matrix.multiply(x) == expected).all()
    _native.expect_weights(size)  # and stopped at any time, or taken while it goes on
    _native.expect_weights(size // 2)
    more = [_native.PackedMatrix(Format.F32.type_id, weights, 1024, 2048) for _ in range(3)]
    _native.expect_weights(0)
    assert all((each.multiply(x) == expected).all() for each in (matrix, *more))
