"""Compiles kernels for NVIDIA GPUs on a machine without one: whatever a call launches, as it would be launched there.

    for kernel in compiled(lambda: rms_norm(x, weight, 1e-5), arch=90):
        assert kernel.stack == 0, kernel

Tensors may be on the device "meta": nothing of the call is executed, its launches are only recorded. They are compiled
in a process of its own, because this one has Triton's interpreter.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Bytes of shared memory that a block of threads may have, by compute capability."""

TENSOR_MEMORY = 512
"""Columns of the memory of its own that Blackwell's matrix unit has (100)."""


INSTRUCTIONS = {90: "wgmma.mma_async", 100: "tcgen05.mma"}
"""Of matrix products, where they are not mma.sync."""


@dataclass(frozen=True)
class Compiled:
    name: str
    arch: int
    registers: int
    """Of one thread."""
    stack: int
    """Bytes of local memory of a thread: what did not fit in registers."""
    loop_spills: int
    """Accesses to local memory in innermost loops, where they cost; elsewhere a few bytes are no harm."""
    serial: bool
    """Each matrix product of a warp group waits for the one before: what the assembler does where registers of its
    result are written before it has come."""
    shared: int
    """Bytes of a block of threads."""
    tensor_memory: int
    """Columns, where the matrix unit has memory of its own."""
    ptx: str
    """The assembly, to look for instructions in ("mma.sync", "ld.global.v4.b32", ...)."""
    layouts: frozenset[str]
    """Of matrix products: the instruction, its shape and how many warps share the columns of a row."""

    @property
    def instructions(self) -> set[str]:
        """Those of matrix products."""
        return {name for name in (*INSTRUCTIONS.values(), "mma.sync") if name in self.ptx}

    def __repr__(self) -> str:
        return (
            f"{self.name} (sm_{self.arch}: {self.registers} registers, stack {self.stack}, loop spills "
            f"{self.loop_spills}, shared {self.shared}, tensor memory {self.tensor_memory}, {sorted(self.layouts)})"
        )


def compiled(call: Callable[[], object], arch: int = 90) -> list[Compiled]:
    """Every kernel that `call` launches, in order, compiled for compute capability `arch`.

    Raises what the compiler raises. What a kernel asks for more than a block may have is an AssertionError.
    """
    from triton.runtime.interpreter import InterpretedFunction

    from trivet.runtime.cuda.kernels import device

    launches: list[Launch] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(
            Launch(reference(self), tuple(map(portable, args)), {k: portable(v) for k, v in options.items()})
        )

    with (
        mock.patch.object(InterpretedFunction, "run", record),
        mock.patch.object(device, "capability", lambda _: arch),
    ):
        call()
    assert launches, "nothing was launched"
    kernels = list(compiler().map(compile_launch, launches, [arch] * len(launches)))
    for kernel in kernels:
        assert kernel.shared <= SHARED_MEMORY[arch] and kernel.tensor_memory <= TENSOR_MEMORY, kernel
    return kernels


@dataclass(frozen=True)
class Pointer:
    dtype: str
    address: int


@dataclass(frozen=True)
class Descriptor:
    base: Pointer
    shape: list[int]
    strides: list[int]
    block_shape: list[int]


@dataclass(frozen=True)
class Function:
    module: str
    name: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True)
class Launch:
    kernel: Function
    args: tuple[Any, ...]
    options: dict[str, Any]


def reference(kernel: Any) -> Function:
    return Function(kernel.fn.__module__, kernel.fn.__name__)


def portable(value: Any) -> Any:
    import torch
    from triton.tools.tensor_descriptor import TensorDescriptor

    if isinstance(value, torch.Tensor):
        return Pointer(str(value.dtype).removeprefix("torch."), value.storage_offset() * value.element_size())
    if isinstance(value, TensorDescriptor):
        return Descriptor(portable(value.base), list(value.shape), list(value.strides), value.block_shape)
    return reference(value) if hasattr(value, "fn") else value


@cache
def compiler() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with mock.patch.dict(os.environ, TRITON_INTERPRET="0"):
        pool.submit(int).result()  # starts the process
    return pool


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """In the compiler's process: through Triton's own launcher, so that arguments are specialised as at a launch."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.tools.tensor_descriptor import TensorDescriptor

    class Driver:
        def get_current_device(self) -> int:
            return arch

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

    class Tensor:
        def __init__(self, pointer: Pointer) -> None:
            self.dtype = getattr(torch, pointer.dtype)
            self.address = pointer.address

        def data_ptr(self) -> int:
            return self.address

    def argument(value: Any) -> Any:
        if isinstance(value, Function):
            return value.load()
        if isinstance(value, Descriptor):
            return TensorDescriptor(Tensor(value.base), value.shape, value.strides, value.block_shape)
        return Tensor(value) if isinstance(value, Pointer) else value

    driver.set_active(Driver())
    kernel = launch.kernel.load().warmup(
        *map(argument, launch.args), grid=(1,), **{k: argument(v) for k, v in launch.options.items()}
    )
    usage, instructions = disassembled(kernel.asm["cubin"])
    layouts = re.findall(
        r"nvidia_mma<{versionMajor = (\d).*?warpsPerCTA = \[\d+, (\d+)\], instrShape = (\[.*?\])", kernel.asm["ttgir"]
    )
    return Compiled(
        name=launch.kernel.name,
        arch=arch,
        registers=usage["REG"],
        stack=usage["STACK"],
        loop_spills=loop_spills(instructions),
        serial=0 < count_of(instructions, "HGMMA") <= count_of(instructions, "WARPGROUP.DEPBAR"),
        shared=kernel.metadata.shared,
        tensor_memory=kernel.metadata.tmem_size or 0,
        ptx=kernel.asm["ptx"],
        layouts=frozenset(" ".join(layout) for layout in layouts),
    )


def disassembled(cubin: bytes) -> tuple[dict[str, int], list[str]]:
    """What a kernel uses, and its instructions and labels."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = subprocess.check_output([knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path], text=True)
        text = subprocess.check_output([knobs.nvidia.nvdisasm.path, "-c", path], text=True)
    lines = re.findall(r"^(\.L\w+:|\s+/\*[0-9a-f]{4,}\*/.*)", text, re.MULTILINE)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}, lines


def count_of(instructions: list[str], name: str) -> int:
    return sum(name in line for line in instructions)


def loop_spills(instructions: list[str]) -> int:
    labels = {line.rstrip(":"): i for i, line in enumerate(instructions) if line.startswith(".L")}
    loops = []
    for i, line in enumerate(instructions):
        jump = re.search(r"\bBRA.*`\((\.L\w+)\)", line)
        if jump and labels.get(jump[1], i) < i:
            loops.append(range(labels[jump[1]], i))
    innermost = [a for a in loops if not any(b is not a and b.start >= a.start and b.stop <= a.stop for b in loops)]
    return sum(bool(re.search(r"\b(LDL|STL)\b", instructions[i])) for loop in innermost for i in loop)
