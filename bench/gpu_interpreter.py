"""Triton's interpreter in place of a GPU. Used by bench/gpu.py."""

from __future__ import annotations


def install(kernels: bool) -> None:
    """For kernels alone; or else for whole models, whose kernels are then in plain PyTorch, since it takes long."""
    from tests.runtime.cuda import interpreter

    interpreter.repair()
    if kernels:
        return
    from bench import gpu_model
    from tests.runtime.cuda import reference
    from trivet.runtime import loader
    from trivet.runtime.cuda import program, runtime, weights
    from trivet.runtime.cuda.device import HostDevice

    for kernel in reference.KERNELS:
        setattr(program, kernel.__name__, kernel)
    runtime.DeviceSampler, runtime.CudaDevice = reference.DeviceSampler, HostDevice  # type: ignore[misc, assignment]
    weights.FORMATS = {}  # type: ignore[assignment]
    loader._usable = lambda wanted: "cuda"
    gpu_model.WARM_UP = 1
