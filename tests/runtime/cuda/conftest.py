"""Triton kernels run interpreted here, on torch's CPU tensors. Everything in this folder is marked `compare`; where
that is not selected or there is no torch, nothing is imported."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before any module with one is imported

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    missing = any(importlib.util.find_spec(name) is None for name in ("torch", "triton"))
    return True if missing or config.option.markexpr == "not compare" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.compare)


@pytest.fixture(autouse=True, scope="session")
def repaired_interpreter() -> None:
    from tests.runtime.cuda.interpreter import repair

    repair()


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs programs by tests/runtime/cuda/reference.py, with dense weights only, and samples natively."""
    from tests.runtime.cuda import reference
    from trivet.runtime.cuda import program, runtime, weights

    for kernel in reference.KERNELS:
        monkeypatch.setattr(program, kernel.__name__, kernel)
    monkeypatch.setattr(runtime, "DeviceSampler", reference.DeviceSampler)
    monkeypatch.setattr(weights, "FORMATS", {})
