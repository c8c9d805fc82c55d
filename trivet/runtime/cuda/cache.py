"""The paged cache of keys and values on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trivet.errors import EngineError
from trivet.graph.ops import CacheLayer
from trivet.runtime.cuda.device import Device
from trivet.runtime.cuda.kernels.device import capability

DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}
FP8_CAPABILITY = 89
"""From here on there are instructions for float8."""
BLOCK_SIZES = (16, 32, 64, 128)


def cache_dtype(name: str, device: Device) -> torch.dtype:
    """Raises EngineError for a type that the device does not have."""
    if "/" in name:
        keys, values = name.split("/")
        raise EngineError(f"kv_cache_dtype: on a GPU keys and values have one type, got {keys} and {values}")
    if name not in DTYPES:
        raise EngineError(f"kv_cache_dtype must be one of auto, {', '.join(DTYPES)} on a GPU, got {name}")
    there = capability(device.place)
    if name == "fp8" and there < FP8_CAPABILITY:
        raise EngineError(
            f"kv_cache_dtype fp8 needs a GPU of compute capability {FP8_CAPABILITY / 10} or more, and {device.name} "
            f"has {there / 10}; use bf16"
        )
    return DTYPES[name]


def block_bytes(layers: Sequence[CacheLayer], dtype: torch.dtype, block_size: int) -> int:
    """Bytes of one block over all layers. Raises EngineError for a size that kernels do not know."""
    if block_size not in BLOCK_SIZES:
        raise EngineError(f"block_size must be one of {', '.join(map(str, BLOCK_SIZES))} on a GPU, got {block_size}")
    return sum(2 * layer.kv_heads * layer.head_dim for layer in layers) * block_size * dtype.itemsize


class PagedCache:
    """Keys and values [num_blocks, block_size, kv_heads, head_dim] of every layer.

    They begin as zeros: kernels may read what was never written, and it must be finite.
    """

    def __init__(
        self, layers: Sequence[CacheLayer], dtype: torch.dtype, num_blocks: int, block_size: int, device: Device
    ) -> None:
        self.block_size = block_size
        shapes = [(num_blocks, block_size, layer.kv_heads, layer.head_dim) for layer in layers]
        self.layers = [(_zeros(shape, dtype, device.place), _zeros(shape, dtype, device.place)) for shape in shapes]
        """Keys and values."""

    def read(self, block: int) -> np.ndarray:
        """A block's bytes, layer after layer, keys before values: uint8."""
        return torch.cat(self._parts(block)).cpu().numpy()

    def write(self, block: int, data: np.ndarray) -> None:
        parts = self._parts(block)
        values = torch.tensor(data, dtype=torch.uint8, device=parts[0].device)
        for part, piece in zip(parts, values.split([part.numel() for part in parts]), strict=True):
            part.copy_(piece)

    def _parts(self, block: int) -> list[torch.Tensor]:
        return [values[block].view(torch.uint8).view(-1) for layer in self.layers for values in layer]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, place: torch.device) -> torch.Tensor:
    """By bytes, as not every device fills every type."""
    width = (*shape[:-1], shape[-1] * dtype.itemsize)
    return torch.zeros(width, dtype=torch.uint8, device=place).view(dtype)
