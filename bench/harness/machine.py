"""The machine that was measured on: what it is, and what it can do at best."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trivet import _native
from trivet.cli.system import system_info
from trivet.weights.formats import Format

SOURCE = Path(__file__).with_name("limits.c")
COMPILERS = ("clang-16", "clang", "gcc", "cc")
MACHINES = {
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mavx512vnni"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
}
"""Flags for the instruction sets that may be forced where there are better ones."""

Arithmetic = Literal["int8", "bf16", "fma"]
"""What multiplies: 8-bit numbers, bfloat16 where there is an instruction for it, float32."""


@dataclass(frozen=True)
class Limits:
    """read: bytes a second. int8, bf16, fma: multiply-adds a second; `_with` says of which instructions. Without one
    for bfloat16, that is multiplied as float32.
    """

    read: float
    int8: float
    bf16: float
    fma: float
    int8_with: str
    bf16_with: str
    fma_with: str

    def products(self, arithmetic: Arithmetic) -> float:
        """Multiply-adds a second."""
        found: float = getattr(self, arithmetic)
        return found

    def __str__(self) -> str:
        kinds = {self.int8_with: self.int8, self.bf16_with: self.bf16, self.fma_with: self.fma}
        rates = ", ".join(f"{rate / 1e9:,.0f} ({name})" for name, rate in kinds.items())
        return f"reads {self.read / 1e9:.1f} GB/s; 10⁹ multiply-adds/s: {rates}"


def arithmetic(fmt: Format, numerics: str = "exact", rows: int = 1) -> Arithmetic:
    """What multiplies weights of a format with so many rows here: rows are converted to what its kernel takes."""
    activations = _native.activation_format(fmt.type_id, numerics, rows)
    return "fma" if activations == "f32" else "bf16" if activations == "bf16" else "int8"


@contextmanager
def built() -> Iterator[Path]:
    """limits.c for the instruction set in use. Raises OSError where no C compiler is found."""
    machine = MACHINES.get(_native.system_info()["isa"], ["-march=native"])
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "limits")
        for compiler in COMPILERS:
            try:
                build = [compiler, "-O3", *machine, "-pthread", SOURCE, "-o", program]
                subprocess.run(build, check=True, capture_output=True)
                break
            except (FileNotFoundError, subprocess.CalledProcessError):
                continue
        else:
            raise OSError(f"none of {', '.join(COMPILERS)} can compile {SOURCE}")
        yield program


@contextmanager
def read_speed(threads: int) -> Iterator[Callable[[], float]]:
    """Bytes that memory gives a second now; to ask takes 0.1 seconds. On a shared machine it changes: where a host
    runs a virtual processor from one second to the next, or what others read there, may double or halve it.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with built() as program, subprocess.Popen([program, str(threads), "reads"], text=True, **pipes) as process:
        assert process.stdin and process.stdout
        requests, answers = process.stdin, process.stdout

        def ask() -> float:
            requests.write("\n")
            requests.flush()
            return float(answers.readline()) * 1e9

        yield ask


def measure_limits(threads: int) -> Limits:
    """Of the instruction set in use. Takes 7 seconds. Raises OSError where no C compiler is found."""
    with built() as program:
        found: dict[str, Any] = json.loads(subprocess.check_output([program, str(threads)]))
    return Limits(**{key: value if key.endswith("_with") else value * 1e9 for key, value in found.items()})


def describe(limits: Limits, threads: int) -> dict[str, Any]:
    """For the head of a result file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "limits": vars(limits),
        "system": system_info(),
    }


def commit() -> str:
    try:
        return subprocess.check_output(["git", "describe", "--always", "--dirty"], text=True, cwd=SOURCE.parent).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
