"""Which runtime an engine gets."""

from __future__ import annotations

import ast
import ctypes
import importlib.metadata
import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import trivet
from tests.models.tiny import MODELS
from trivet.engine.config import EngineConfig
from trivet.errors import EngineError
from trivet.runtime import gpu, loader
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.gpu import Gpu, gpus

NEW, OLD = Gpu("NVIDIA H100", (9, 0), 80 << 30), Gpu("Tesla V100", (7, 0), 16 << 30)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what is there: GPUs and packages."""

    def have(found: list[Gpu], packages: tuple[str, ...] = ("torch 2.11.0+cu130", "triton 3.10.0")) -> None:
        versions = dict((*package.split(), None)[:2] for package in packages)

        def version(name: str) -> str:
            if versions[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(loader, "gpus", lambda: found)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in versions else None)
        monkeypatch.setattr(importlib.metadata, "version", version)

    return have


@pytest.mark.parametrize(
    ("settings", "found", "packages", "chosen"),
    [
        ({}, [NEW], ("torch", "triton"), "cuda"),
        ({}, [], ("torch", "triton"), "cpu"),
        ({}, [NEW], ("torch",), "cpu"),
        ({}, [NEW], ("torch 2.10.1", "triton 3.6.0"), "cpu"),
        ({}, [OLD], ("torch", "triton"), "cpu"),
        ({"device": "cpu"}, [NEW], ("torch", "triton"), "cpu"),
        ({"device": "cuda"}, [NEW], ("torch", "triton"), "cuda"),
        ({"gpu_layers": 0}, [NEW], ("torch", "triton"), "cpu"),
        ({"gpu_layers": 3}, [NEW], ("torch", "triton"), "cuda"),
        ({"gpu_layers": 3}, [], (), "cpu"),
    ],
)
def test_device(machine: Any, settings: dict[str, Any], found: list[Gpu], packages: Any, chosen: str) -> None:
    machine(found, packages)
    assert loader.choose_device(EngineConfig(model="m", **settings)) == chosen


@pytest.mark.parametrize(
    ("found", "packages", "message"),
    [
        ([NEW], ("torch",), r"needs triton 3.6 or later, which is not installed: pip install 'trivet\[cuda\]'"),
        ([NEW], ("torch 2.4.1", "triton 3.6.0"), r"needs torch 2.11 or later, and 2.4.1 is installed: pip"),
        ([], (), r"needs torch 2.11 .* and triton 3.6"),
        ([], ("torch", "triton"), r"no NVIDIA GPU was found .* use device cpu"),
        ([OLD], ("torch", "triton"), r"Tesla V100 has compute capability 7.0; at least 8.0"),
    ],
)
def test_a_gpu_that_cannot_be_had(machine: Any, found: list[Gpu], packages: Any, message: str) -> None:
    machine(found, packages)
    with pytest.raises(EngineError, match=message):
        loader.choose_device(EngineConfig(model="m", device="cuda"))


def test_other_devices() -> None:
    with pytest.raises(EngineError, match="device must be one of auto, cpu, cuda, got tpu"):
        loader.choose_device(EngineConfig(model="m", device="tpu"))


def test_what_has_no_effect_without_a_gpu_is_said(
    machine: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    machine([])
    model = MODELS[0].write_gguf(tmp_path / "m.gguf")
    with caplog.at_level(logging.WARNING):
        runtime = loader.load_runtime(EngineConfig(model=str(model), gpu_layers=3, kv_cache_dtype="fp8"))
    assert isinstance(runtime, CpuRuntime) and runtime.identity()["cache type"] == "f32"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "gpu_layers 3 has no effect",
        "kv_cache_dtype fp8",
    ]


class Driver:
    """As libcuda, with one GPU."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 40 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        assert device.value == 40 and size == 256
        name.value = b"NVIDIA H100"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 80 << 30
        return 0


def test_gpus_are_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: Driver()}))
    assert gpus() == [NEW] and NEW.supported and not OLD.supported
    monkeypatch.setattr(gpu, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: Driver(100)}))
    assert gpus() == []
    monkeypatch.setattr(gpu, "DRIVER", "libnothing.so")
    monkeypatch.setattr(gpu, "ctypes", ctypes)
    assert gpus() == []


def test_nothing_outside_the_gpu_runtime_imports_torch() -> None:
    package = Path(trivet.__file__).parent
    inside = package / "runtime/cuda"
    for file in package.rglob("*.py"):
        if inside in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("torch", "triton"), f"{file} imports {name}"
