"""Weights for measuring speed alone: of formats that nothing here quantises to, or where values do not matter."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter

FLOATS = {Format.F32, Format.F16, Format.BF16}


def random_weights(fmt: Format, count: int) -> np.ndarray:
    """Bytes of so many weights. None is next to zero: processors by Intel take a hundred cycles for a denormal."""
    rng = np.random.default_rng(0)
    if fmt in FLOATS:
        values = rng.standard_normal(count, np.float32)
        if fmt is Format.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(np.float32 if fmt is Format.F32 else np.float16).view(np.uint8)
    # Whatever part of a block is a float16 scale is positive and below 2.
    blocks = rng.integers(0, 0x40, (count // fmt.block_size, fmt.block_bytes), dtype=np.uint8)
    if fmt is Format.MXFP4:
        blocks[:, 0] += 0x40
    return blocks.reshape(-1)


def randomise_layers(model: GGUFFile, fmt: Format, target: Path) -> None:
    """Write the model with random weights of a format in the matrices of its layers; all else stays as it is."""

    def random(name: str, shape: tuple[int, ...]) -> bool:
        return name.startswith("blk.") and len(shape) > 1 and shape[-1] % fmt.block_size == 0

    infos = {
        name: replace(info, format=fmt) if random(name, info.shape) else info for name, info in model.tensors.items()
    }
    with GGUFWriter(target, model.metadata, infos.values(), model.types) as writer:
        for name, info in infos.items():
            whole = random(name, info.shape)
            writer.write(name, random_weights(fmt, math.prod(info.shape)) if whole else model.load(name).data)
