"""Blocks of every format that computes: random ones, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import gguf
import numpy as np

from trivet.weights.formats import Format

HALVES = {
    **dict.fromkeys([Format.Q4_0, Format.Q5_0, Format.Q8_0, Format.IQ4_NL, Format.Q1_0, Format.Q2_0], (0,)),
    **dict.fromkeys([Format.Q4_1, Format.Q5_1, Format.Q4_K, Format.Q5_K], (0, 2)),
    **dict.fromkeys([Format.IQ4_XS, Format.IQ1_S, Format.IQ2_XXS, Format.IQ2_XS, Format.IQ2_S], (0,)),
    **dict.fromkeys([Format.IQ3_XXS, Format.IQ3_S], (0,)),
    Format.Q2_K: (80, 82),
    Format.Q3_K: (108,),
    Format.Q6_K: (208,),
    Format.TQ1_0: (52,),
    Format.TQ2_0: (64,),
}
"""Where in a block its float16 scale, and its minimum, are."""

BLOCK_FORMATS = [*HALVES, Format.IQ1_M, Format.MXFP4, Format.NVFP4]
SMALL = [fmt for fmt in BLOCK_FORMATS if fmt.block_size < 256]


def set_halves(fmt: Format, blocks: np.ndarray, *halves: np.ndarray | float) -> None:
    """Write the float16 scale, and the minimum, of blocks `[..., bytes]`. A format without them keeps what it has."""
    for at, half in zip(HALVES.get(fmt, ()), halves, strict=False):
        blocks[..., at : at + 2] = np.asarray(half, np.float16)[..., None].view(np.uint8)
    if fmt is Format.IQ1_M:
        bits = np.broadcast_to(np.asarray(halves[0], np.float16), blocks.shape[:-1]).copy().view(np.uint16)
        for i in range(4):
            blocks[..., 49 + 2 * i] = (blocks[..., 49 + 2 * i] & 15) | ((bits >> (4 * i)) & 15) << 4


def random_blocks(fmt: Format, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Blocks `[*shape, bytes]`: any integers, and scales of both signs about 1."""
    blocks = rng.integers(0, 256, (*shape, fmt.block_bytes), np.uint8)
    set_halves(fmt, blocks, rng.standard_normal(shape), rng.standard_normal(shape))
    if fmt is Format.MXFP4:
        blocks[..., 0] = rng.integers(120, 130, shape)
    return blocks


def dequantize(fmt: Format, data: np.ndarray) -> np.ndarray:
    """float32 `[..., columns]` of rows `[..., bytes]`: by the `gguf` package, or by the formula where it has none."""
    if fmt not in (Format.Q1_0, Format.Q2_0):
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(fmt.type_id))
    blocks = data.reshape(*data.shape[:-1], -1, fmt.block_bytes)
    d = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    if fmt is Format.Q1_0:
        q = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little") * 2.0 - 1
    else:
        q = (blocks[..., 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(*blocks.shape[:-1], -1) - 1.0
    return (d * q.astype(np.float32)).reshape(*data.shape[:-1], -1)
