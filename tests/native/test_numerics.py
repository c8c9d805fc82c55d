"""Fast numerics: for many rows weights in blocks are rounded, on AVX-512 to int8, on AMX to bfloat16 too. All else is
the same as exact.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.blocks import BLOCK_FORMATS, HALVES, dequantize, set_halves
from tests.native.harness import logits, model_graph, program, random_tokens
from tests.native.test_gemm import each_block_format, quantized, random_weights
from trivet import _native
from trivet.weights.formats import Format

ISA = _native.system_info()["isa"]
FEW = {"avx512": 31, "avx512_bf16": 31, "amx": 12}.get(ISA, 0)
"""So many rows are multiplied exactly."""
ROUNDS = FEW > 0

LARGE_TO_BYTES = {Format.Q2_K, Format.Q3_K, Format.Q4_K, Format.Q5_K, Format.Q6_K, Format.IQ4_XS}
TO_BYTES = LARGE_TO_BYTES | {Format.Q4_0, Format.Q4_1, Format.Q5_0, Format.Q5_1, Format.IQ4_NL, Format.MXFP4}
"""Rounded to int8 with one scale for a row of weights and 256 columns, as their activations are."""

where_it_rounds = pytest.mark.skipif(not ROUNDS, reason="fast numerics are exact on this instruction set")


each_kind_of_inputs = pytest.mark.parametrize("inputs", ["usual", "wide", "last"])


def to_bytes(fmt: Format, inputs: str = "usual") -> bool:
    return ROUNDS and fmt in {"usual": TO_BYTES, "wide": LARGE_TO_BYTES, "last": set()}[inputs]


def to_bf16(fmt: Format, inputs: str = "usual") -> bool:
    return ISA == "amx" and not to_bytes(fmt, inputs)


def peaks(values: np.ndarray) -> np.ndarray:
    """[rows, columns]: the largest magnitude of a row's 256 columns, for each of them."""
    rows, columns = values.shape
    padded = np.pad(np.abs(values), ((0, 0), (0, -columns % 256)))
    return padded.reshape(rows, -1, 256).max(2).repeat(256, 1)[:, :columns]


def gaussian(m: int, columns: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((m, columns), np.float32)


def packed(fmt: Format, data: np.ndarray, columns: int) -> _native.PackedMatrix:
    return _native.PackedMatrix(fmt.type_id, data.reshape(-1), len(data), columns)


@each_block_format
@each_kind_of_inputs
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_product(fmt: Format, inputs: str, rows: int) -> None:
    for blocks, m in [(1, FEW + 1), (3, FEW + 4), (5, 47), (9, 33), (2, 70), (1, 300)]:
        columns = blocks * fmt.block_size
        data, x = random_weights(fmt, rows, columns), gaussian(m, columns)
        y = packed(fmt, data, columns).multiply(x, numerics="fast", inputs=inputs)
        if not (to_bytes(fmt, inputs) or to_bf16(fmt, inputs)):
            np.testing.assert_array_equal(y, packed(fmt, data, columns).multiply(x))
            continue
        weights = dequantize(fmt, data).astype(np.float64)
        error = np.abs(y - x.astype(np.float64) @ weights.T)
        if to_bytes(fmt, inputs):
            half_step = peaks(x) / 254
            # Half a unit, a quarter for the factors; not always is the largest possible weight among the block's.
            of_weights = (np.abs(x) + half_step) @ (peaks(weights) / 127).T
            assert np.all(error <= half_step @ np.abs(weights).T + of_weights)
        else:
            assert np.all(error <= 2.02 * 2**-9 * (np.abs(x) @ np.abs(weights).T))


@where_it_rounds
@each_block_format
@each_kind_of_inputs
def test_error(fmt: Format, inputs: str) -> None:
    """0.17 % each of weights and activations; to cut off digits would be 0.33 %, and a bias. As int8, 0.5 to 0.8 %
    each.
    """
    data, x = random_weights(fmt, 160, 1024), gaussian(64, 1024)
    exact = x.astype(np.float64) @ dequantize(fmt, data).astype(np.float64).T
    error = packed(fmt, data, 1024).multiply(x, numerics="fast", inputs=inputs) - exact
    if not (to_bytes(fmt, inputs) or to_bf16(fmt, inputs)):
        return
    least, most = (0.008, 0.012) if to_bytes(fmt, inputs) else (0.0015, 0.0028)
    assert least < np.sqrt(np.mean(error**2) / np.mean(exact**2)) < most


@where_it_rounds
@each_block_format
def test_rows_of_bytes_are_those_of_exact_numerics_where_these_have_as_few_scales(fmt: Format) -> None:
    """What is lost more is the rounding of weights."""
    if not to_bytes(fmt, "wide"):
        return
    data, x = random_weights(fmt, 160, 1024), gaussian(64, 1024)
    exact = quantized(fmt, x)[0] @ dequantize(fmt, data).astype(np.float64).T
    error = packed(fmt, data, 1024).multiply(x, numerics="fast", inputs="wide") - exact
    assert 0.005 < np.sqrt(np.mean(error**2) / np.mean(exact**2)) < 0.0075


@each_block_format
def test_few_rows_are_exact(fmt: Format) -> None:
    data = random_weights(fmt, 20, 512)
    matrix = packed(fmt, data, 512)
    for m in (1, 5, FEW):
        np.testing.assert_array_equal(
            matrix.multiply(gaussian(m, 512), numerics="fast"), matrix.multiply(gaussian(m, 512))
        )


@each_block_format
@pytest.mark.parametrize("inputs", ["usual", "last"])
def test_a_row_does_not_depend_on_other_rounded_ones(fmt: Format, inputs: str) -> None:
    rows, columns, m = 53, 1280, 133
    data, x = random_weights(fmt, rows, columns), gaussian(m, columns)
    matrix = packed(fmt, data, columns)
    y = matrix.multiply(x, 1, "fast", inputs)
    for count in range(FEW + 1, 80, 7):
        first = 3 * count % (m - count)
        part = slice(first, first + count)
        np.testing.assert_array_equal(matrix.multiply(x[part], 1, "fast", inputs), y[part])
    for threads in (2, 3, 9):
        np.testing.assert_array_equal(matrix.multiply(x, threads, "fast", inputs), y)


@where_it_rounds
@pytest.mark.parametrize("fmt", sorted(TO_BYTES - LARGE_TO_BYTES, key=lambda f: f.name), ids=lambda f: f.name)
@pytest.mark.parametrize("columns", [32, 96, 224, 960])
def test_columns_are_no_multiple_of_256(fmt: Format, columns: int) -> None:
    data, x = random_weights(fmt, 40, columns), gaussian(50, columns)
    y = packed(fmt, data, columns).multiply(x, numerics="fast")
    exact = x.astype(np.float64) @ dequantize(fmt, data).astype(np.float64).T
    assert np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)) < 0.0115


@pytest.mark.parametrize("fmt", [Format.BF16, Format.Q4_0, Format.Q4_K], ids=lambda f: f.name)
@pytest.mark.parametrize(("rows", "columns"), [(40, 4864), (546, 2560)])
@pytest.mark.parametrize("inputs", ["usual", "last"])
def test_columns_and_panels_in_parts(fmt: Format, rows: int, columns: int, inputs: str) -> None:
    """More columns than a slab, more panels than their sums have room for, more rows than a pass."""
    data, x = random_weights(fmt, rows, columns), gaussian(271, columns)
    matrix = packed(fmt, data, columns)
    y = matrix.multiply(x, 1, "fast", inputs)
    np.testing.assert_array_equal(matrix.multiply(x[:40], 1, "fast", inputs), y[:40])
    np.testing.assert_array_equal(matrix.multiply(x[-40:], 1, "fast", inputs), y[-40:])
    weights = dequantize(fmt, data)
    exact = x.astype(np.float64) @ weights.astype(np.float64).T
    assert np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)) < 0.011


@each_block_format
def test_more_rows_than_a_pass_of_int8(fmt: Format) -> None:
    data, x = random_weights(fmt, 33, 768), gaussian(2 * 512 + 40, 768)
    matrix = packed(fmt, data, 768)
    y = matrix.multiply(x, numerics="fast")
    for part in (slice(0, 40), slice(350, 450), slice(-50, None)):
        np.testing.assert_array_equal(matrix.multiply(x[part], numerics="fast"), y[part])


@where_it_rounds
@pytest.mark.parametrize("fmt", sorted(TO_BYTES, key=lambda f: f.name), ids=lambda f: f.name)
@pytest.mark.parametrize("bytes_", [0x00, 0x7F, 0x80, 0xF0, 0x0F, 0xFF])
def test_extreme_integers_do_not_overflow(fmt: Format, bytes_: int) -> None:
    data = np.full((16, fmt.num_bytes((1024,))), bytes_, np.uint8)
    blocks = data.reshape(16, -1, fmt.block_bytes)
    set_halves(fmt, blocks, 1.0, 1.0)
    if fmt is Format.MXFP4:
        blocks[:, :, 0] = 128
    x = np.sign(gaussian(FEW + 4, 1024))
    y = packed(fmt, data, 1024).multiply(x, numerics="fast")
    weights = dequantize(fmt, data).astype(np.float64)
    # The largest weights that have these scales: of all bits set or none.
    assert np.all(np.abs(y - x @ weights.T) <= 0.01 * np.abs(weights).sum(1) + 1e-30)


@where_it_rounds
@pytest.mark.parametrize("bits", [0x7E00, 0x7FFF, 0xFFFF, 0x7C00], ids=["NaN", "full NaN", "-NaN", "infinity"])
@pytest.mark.parametrize("fmt", HALVES, ids=lambda f: f.name)
@pytest.mark.parametrize("inputs", ["usual", "last"])
def test_a_scale_that_is_not_finite_spoils_its_column_alone(fmt: Format, bits: int, inputs: str) -> None:
    data, x = random_weights(fmt, 20, 512), gaussian(FEW + 8, 512)
    clean = packed(fmt, data, 512).multiply(x, 1, "fast", inputs)
    set_halves(fmt, data.reshape(20, -1, fmt.block_bytes)[7, 0], np.uint16(bits).view(np.float16))
    y = packed(fmt, data, 512).multiply(x, 1, "fast", inputs)
    assert not np.isfinite(y[:, 7]).any()
    np.testing.assert_array_equal(np.delete(y, 7, axis=1), np.delete(clean, 7, axis=1))


@each_block_format
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("inputs", ["usual", "last"])
def test_a_value_that_is_not_finite_spoils_its_row_alone(fmt: Format, bad: float, inputs: str) -> None:
    data, x = random_weights(fmt, 20, 512), gaussian(FEW + 8, 512)
    clean = packed(fmt, data, 512).multiply(x, 1, "fast", inputs)
    x[3, 300] = bad
    y = packed(fmt, data, 512).multiply(x, 1, "fast", inputs)
    assert not np.isfinite(y[3]).any()
    np.testing.assert_array_equal(np.delete(y, 3, axis=0), np.delete(clean, 3, axis=0))


@pytest.mark.parametrize("experts", [0, 5])
@pytest.mark.parametrize(
    "formats",
    [(Format.Q4_0,), (Format.Q4_K, Format.Q6_K), (Format.Q8_0, Format.Q5_K, Format.BF16), tuple(BLOCK_FORMATS)],
    ids=lambda formats: "+".join(f.name for f in formats[:3]),
)
def test_program(formats: tuple[Format, ...], experts: int) -> None:
    """With experts some have few rows and others many."""
    model = model_graph(*formats, experts=experts)
    tokens = random_tokens(50)
    exact, fast = program(model, threads=2), program(model, threads=2, numerics="fast")
    y = logits(fast, tokens)
    if not any(to_bytes(fmt) or to_bf16(fmt) for fmt in formats):
        np.testing.assert_array_equal(y, logits(exact, tokens))
        return
    expected = reference.run(model[0], reference.Weights(model[1]), tokens)
    error = np.abs(y - expected) / np.ptp(expected)
    most = 0.04 if TO_BYTES & set(formats) else 0.02
    assert (np.median(error) if experts else error.max()) < most  # rounding may choose another expert
    assert (y != logits(exact, tokens)).any()
    np.testing.assert_array_equal(logits(fast, tokens, chunk=5), logits(exact, tokens, chunk=5))


def test_another_name_is_refused() -> None:
    for call in (
        lambda: _native.Program(1, [], "f32", [], "loose"),
        lambda: packed(Format.Q8_0, random_weights(Format.Q8_0, 2, 32), 32).multiply(gaussian(1, 32), 1, "loose"),
    ):
        with pytest.raises(ValueError, match="numerics must be exact or fast, got loose"):
            call()
    with pytest.raises(ValueError, match="inputs must be usual, wide or last, got odd"):
        packed(Format.Q8_0, random_weights(Format.Q8_0, 2, 32), 32).multiply(gaussian(1, 32), inputs="odd")
