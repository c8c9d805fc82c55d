"""Dequantisation against the `gguf` package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trivet import _native
from trivet.weights.formats import Format

# Formats in blocks, and where their float16 scales are.
BLOCKS = {Format.Q4_0: (0,), Format.Q8_0: (0,), Format.Q4_K: (0, 2), Format.Q6_K: (208,)}

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)
SPECIAL_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16
)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal bits, signed zeros and all; any NaN equals any NaN."""
    assert ours.dtype == theirs.dtype == np.float32
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


def check(fmt: Format, blocks: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(fmt.type_id)).ravel()
    count = blocks.size // fmt.block_bytes * fmt.block_size
    assert_same(_native.dequantize(fmt.type_id, blocks.ravel(), count), theirs)


@pytest.mark.parametrize("fmt", [Format.F16, Format.BF16], ids=lambda f: f.name)
def test_every_16_bit_float(fmt: Format) -> None:
    check(fmt, EVERY_HALF.view(np.uint8))


def test_float32_is_copied() -> None:
    bits = np.array([0, 1 << 31, 1, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000], np.uint32)
    assert_same(_native.dequantize(Format.F32.type_id, bits.view(np.uint8), bits.size), bits.view(np.float32))


@pytest.mark.parametrize("fmt", BLOCKS, ids=lambda f: f.name)
def test_scales_of_every_size(fmt: Format) -> None:
    scales = EVERY_HALF[::13]
    blocks = np.random.default_rng(0).integers(0, 256, (len(scales), fmt.block_bytes), dtype=np.uint8)
    for at in BLOCKS[fmt]:
        blocks[:, at : at + 2] = np.roll(scales, 7 * at)[:, None].view(np.uint8)
    check(fmt, blocks)


@pytest.mark.parametrize("fmt", BLOCKS, ids=lambda f: f.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_block(fmt: Format, data: st.DataObject) -> None:
    blocks = data.draw(npst.arrays(np.uint8, (3, fmt.block_bytes)))
    for at in BLOCKS[fmt]:
        blocks[0, at : at + 2] = data.draw(npst.arrays(np.uint16, 1, elements=st.sampled_from(SPECIAL_HALVES))).view(
            np.uint8
        )
    check(fmt, blocks)


@pytest.mark.parametrize(
    ("type_id", "size", "count", "message"),
    [
        (3, 20, 32, "tensor type 3 does not compute"),
        (-1, 20, 32, "tensor type -1 does not compute"),
        (8, 34, 33, "33 columns are not whole Q8_0 blocks of 32"),
        (8, 33, 32, "got 33 bytes for 1 rows of 34 bytes"),
        (0, 4, -1, "-1 columns"),
    ],
)
def test_sizes_that_do_not_fit(type_id: int, size: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.dequantize(type_id, np.zeros(size, np.uint8), count)
