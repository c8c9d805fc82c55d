"""Dequantisation against the `gguf` package, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.blocks import BLOCK_FORMATS, HALVES, dequantize, set_halves
from trivet import _native
from trivet.weights.formats import Format

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)
SPECIAL_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16
)

each_block_format = pytest.mark.parametrize("fmt", BLOCK_FORMATS, ids=lambda f: f.name)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal bits, signed zeros and all; any NaN equals any NaN."""
    assert ours.dtype == theirs.dtype == np.float32
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


def check(fmt: Format, blocks: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = dequantize(fmt, blocks).ravel()
    count = blocks.size // fmt.block_bytes * fmt.block_size
    assert_same(_native.dequantize(fmt.type_id, blocks.ravel(), count), theirs)


@pytest.mark.parametrize("fmt", [Format.F16, Format.BF16], ids=lambda f: f.name)
def test_every_16_bit_float(fmt: Format) -> None:
    check(fmt, EVERY_HALF.view(np.uint8))


def test_float32_is_copied() -> None:
    bits = np.array([0, 1 << 31, 1, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000], np.uint32)
    assert_same(_native.dequantize(Format.F32.type_id, bits.view(np.uint8), bits.size), bits.view(np.float32))


@each_block_format
def test_scales_of_every_size(fmt: Format) -> None:
    halves = EVERY_HALF[::13].view(np.float16)
    blocks = np.random.default_rng(0).integers(0, 256, (len(halves), fmt.block_bytes), dtype=np.uint8)
    set_halves(fmt, blocks, halves, np.roll(halves, 7))
    check(fmt, blocks)


@each_block_format
def test_every_byte_in_every_place(fmt: Format) -> None:
    """All indices of all grids among them, and all scales of one byte."""
    blocks = np.random.default_rng(1).integers(0, 256, (2048, fmt.block_bytes), dtype=np.uint8)
    blocks += np.arange(2048, dtype=np.uint16).astype(np.uint8)[:, None]
    set_halves(fmt, blocks, 1.0, 1.0)
    check(fmt, blocks)


@each_block_format
@settings(max_examples=30)
@given(data=st.data())
def test_any_block(fmt: Format, data: st.DataObject) -> None:
    blocks = data.draw(npst.arrays(np.uint8, (3, fmt.block_bytes)))
    special = data.draw(npst.arrays(np.uint16, 2, elements=st.sampled_from(SPECIAL_HALVES))).view(np.float16)
    set_halves(fmt, blocks[0], *special)
    check(fmt, blocks)


def test_all_formats_of_weights_compute() -> None:
    others = {Format.Q8_1, Format.Q8_K, Format.I8, Format.I16, Format.I32, Format.I64, Format.F64}
    assert {*BLOCK_FORMATS, Format.F32, Format.F16, Format.BF16} == set(Format) - others
    assert HALVES.keys() == set(BLOCK_FORMATS) - {Format.IQ1_M, Format.MXFP4, Format.NVFP4}
    for fmt in others:
        with pytest.raises(ValueError, match=f"tensor type {fmt.type_id} is not a format of weights"):
            _native.dequantize(fmt.type_id, np.zeros(0, np.uint8), 0)


@pytest.mark.parametrize(
    ("type_id", "size", "count", "message"),
    [
        (4, 20, 32, "tensor type 4 is not a format of weights"),
        (-1, 20, 32, "tensor type -1 is not a format of weights"),
        (8, 34, 33, "33 columns are not whole Q8_0 blocks of 32"),
        (8, 33, 32, "got 33 bytes for 1 rows of 34 bytes"),
        (0, 4, -1, "-1 columns"),
    ],
)
def test_sizes_that_do_not_fit(type_id: int, size: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.dequantize(type_id, np.zeros(size, np.uint8), count)
