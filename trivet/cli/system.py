"""What this machine and installation are, for `trivet inspect --system` and beside measurements."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "starlette", "uvicorn")
CUDA_PACKAGES = ("torch", "triton")


def system_info() -> dict[str, Any]:
    """Processor, instruction sets that kernels use and could use, memory in bytes, GPUs, versions; ready for JSON."""
    from trivet import __version__, _native
    from trivet.runtime.gpu import gpus
    from trivet.runtime.machine import available_bytes, usable_cores

    return {
        "processor": processor(),
        **_native.system_info(),
        "usable_cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "available_bytes": available_bytes(),
        "gpus": [
            {"name": gpu.name, "capability": "{}.{}".format(*gpu.capability), "memory_bytes": gpu.memory_bytes}
            for gpu in gpus()
        ],
        "os": platform.platform(),
        "python": platform.python_version(),
        "trivet": __version__,
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    """Those of `trivet[cuda]` where they are installed."""
    for name in (*PACKAGES, *CUDA_PACKAGES):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in PACKAGES:
                raise


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Its name, for people; with its family's and model's numbers where a host has left none in the name."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = about.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in about or any(letter.isdigit() for letter in name):
        return name
    return f"{name} (family {about['cpu family']}, model {about['model']})"
