"""The NVIDIA GPUs of this machine, as the driver tells; without PyTorch, whose import takes seconds."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

DRIVER = "libcuda.so.1"
LEAST_CAPABILITY = (8, 0)
"""Ampere: the first whose matrix units know bfloat16."""
MAJOR, MINOR = 75, 76
"""Of CUdevice_attribute."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    capability: tuple[int, int]
    """Compute capability: (8, 0) is an A100, (9, 0) an H100 or H200."""
    memory_bytes: int

    @property
    def supported(self) -> bool:
        return self.capability >= LEAST_CAPABILITY


def gpus() -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES lets be seen; none where there is no driver."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_gpu(cuda, index) for index in range(count.value)]


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), size.value)
