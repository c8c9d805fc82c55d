"""Quantisers: the same bits as the `gguf` package where it has one, and small errors where it has none."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.blocks import dequantize
from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.quantize import QUANTIZERS, quantize
from trivet.weights.tensor import Tensor, TensorInfo, to_float32

EXACT = [
    *[Format.F32, Format.F16, Format.BF16, Format.Q8_0, Format.Q4_0, Format.Q4_1, Format.Q5_0, Format.Q5_1],
    *[Format.TQ1_0, Format.TQ2_0, Format.MXFP4],
]
# Errors of ggml's own quantisers (libggml 0.20.2, no importance matrix) for NORMAL and for HEAVY.
GGML_ERRORS = {
    Format.Q6_K: (0.0176, 0.0227),
    Format.Q5_K: (0.0360, 0.0439),
    Format.Q4_K: (0.0712, 0.0863),
    Format.IQ4_NL: (0.0758, 0.0930),
    Format.IQ4_XS: (0.0764, 0.0940),
    Format.NVFP4: (0.0957, 0.0922),
    Format.Q3_K: (0.1504, 0.1833),
    Format.Q2_K: (0.2976, 0.3409),
    Format.Q2_0: (0.7169, 0.7338),
    Format.Q1_0: (0.6007, 0.7013),
}
NORMAL = np.random.default_rng(0).standard_normal((64, 1024), np.float32)
HEAVY = np.random.default_rng(1).standard_t(4, (64, 1024)).astype(np.float32)
CONSTANT = 0.02
FP4 = (Format.MXFP4, Format.NVFP4)


def kind(fmt: Format) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(fmt.type_id)


def round_trip(x: np.ndarray, fmt: Format) -> np.ndarray:
    return dequantize(fmt, quantize(x, fmt))


def relative_error(x: np.ndarray, fmt: Format) -> float:
    """Root mean square of the error, over that of the values."""
    return float(np.sqrt(np.square(round_trip(x, fmt) - x).mean() / np.square(x).mean()))


@pytest.mark.parametrize("fmt", EXACT, ids=lambda fmt: fmt.name)
@settings(max_examples=40)
@given(
    x=hnp.arrays(
        np.float32,
        (3, 256),
        elements=st.floats(-60000, 60000, width=16) | st.sampled_from([0.5, -0.5, 127.0, 63.5, -8.0]),
        fill=st.just(0.0),
    )
)
def test_the_same_bits_as_the_gguf_package(fmt: Format, x: np.ndarray) -> None:
    assert np.array_equal(quantize(x, fmt), quants.quantize(x, kind(fmt)).view(np.uint8))


@pytest.mark.parametrize("fmt", EXACT, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("x", [NORMAL, 1e-3 * HEAVY, 1e3 * NORMAL], ids=["normal", "heavy", "large"])
def test_the_same_bits_for_weights(fmt: Format, x: np.ndarray) -> None:
    assert np.array_equal(quantize(x, fmt), quants.quantize(x, kind(fmt)).view(np.uint8))


def test_every_quantiser_is_compared() -> None:
    assert QUANTIZERS.keys() == {*EXACT, *GGML_ERRORS}


@pytest.mark.parametrize("fmt", GGML_ERRORS, ids=lambda fmt: fmt.name)
def test_errors_are_no_larger_than_ggmls(fmt: Format) -> None:
    for x, bound in zip((NORMAL, HEAVY), GGML_ERRORS[fmt], strict=True):
        assert relative_error(x, fmt) < bound
        if fmt is not Format.NVFP4:  # its scales have few bits for small values
            assert relative_error(CONSTANT * x, fmt) < 1.01 * bound


LEVELS = {
    Format.Q2_K: 3,
    Format.Q3_K: 4,
    Format.Q4_K: 15,
    Format.Q5_K: 31,
    Format.Q6_K: 32,
    Format.IQ4_XS: 5,
    Format.IQ4_NL: 5,
}
"""Of each searched format; of uneven ones, as if the widest step were all steps."""


@pytest.mark.parametrize("fmt", LEVELS, ids=lambda fmt: fmt.name)
@settings(max_examples=30)
@given(x=hnp.arrays(np.float32, (2, 256), elements=st.floats(-1000, 1000, width=32), fill=st.just(0.0)))
def test_no_value_is_far_off(fmt: Format, x: np.ndarray) -> None:
    """The step is at most the block's range over the levels, however scales round; twice that is always enough."""
    levels = LEVELS[fmt]
    span = np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)
    assert (np.abs(round_trip(x, fmt) - x).max(1) <= 2 * span / levels + 1e-4).all()


@pytest.mark.parametrize("fmt", [fmt for fmt in QUANTIZERS if fmt not in FP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("value", [0, 1, -1, 1e-30, -1e-42, 3e4])
def test_constant_blocks(fmt: Format, value: float) -> None:
    x = np.full((1, 256), value, np.float32)
    assert np.allclose(round_trip(x, fmt), x, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("fmt", QUANTIZERS, ids=lambda fmt: fmt.name)
def test_blocks_do_not_depend_on_each_other(fmt: Format) -> None:
    assert np.array_equal(quantize(NORMAL, fmt)[5:7], quantize(NORMAL[5:7], fmt))
    assert np.array_equal(quantize(NORMAL[None], fmt)[0], quantize(NORMAL, fmt))


def test_what_cannot_be_quantised() -> None:
    x = np.zeros((1, 256), np.float32)
    with pytest.raises(ValueError, match="not a multiple of Q4_K's block of 256"):
        quantize(x[:, :255], Format.Q4_K)
    with pytest.raises(ValueError, match="writing IQ3_S is not supported; F32, F16"):
        quantize(x, Format.IQ3_S)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            quantize(np.full_like(x, bad), Format.Q8_0)
    for fmt in QUANTIZERS.keys() - {Format.F32, Format.BF16}:
        with pytest.raises(ValueError, match="too large"):
            quantize(np.full_like(x, 1e38), fmt)


@pytest.mark.parametrize("fmt", [Format.F32, Format.F16, Format.BF16], ids=lambda fmt: fmt.name)
def test_to_float32(fmt: Format) -> None:
    data = quantize(NORMAL, fmt)
    assert np.array_equal(
        to_float32(Tensor(TensorInfo("x", NORMAL.shape, fmt), data)), quants.dequantize(data, kind(fmt))
    )


def test_to_float32_refuses_blocks() -> None:
    with pytest.raises(ModelError, match="'x' is Q8_0; only F32, F16 and BF16"):
        to_float32(Tensor(TensorInfo("x", (1, 32), Format.Q8_0), np.zeros((1, 34), np.uint8)))
