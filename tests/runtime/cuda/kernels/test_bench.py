"""That the checks and timings of products run, and notice what is wrong, at sizes for the interpreter."""

from __future__ import annotations

import pytest
import torch

from bench import gpu_products
from bench.gpu_model import Limits
from trivet.weights.formats import Format


@pytest.mark.usefixtures("chains")
def test_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_products, "ROWS", (1, 2))
    monkeypatch.setattr(gpu_products, "FORMATS", (Format.Q6_K,))
    checks = list(gpu_products.checks("cpu", ((40, 256),), 256, 256))
    assert len(checks) == 1 + 2 * 2 + 2
    assert [check for check in checks if not check.passed] == []
    assert 0 < max(check.error for check in checks) < 6e-3


def test_bits_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_products, "ROWS", (1, 3, 5))
    [check] = gpu_products.same_bits("mean", lambda x: x - x.mean(), torch.arange(5.0)[:, None])
    assert (check.passed, check.name) == (False, "mean: numbers of rows that change bits [1, 3]")
    assert not gpu_products.Check("", float("nan"), 1).passed


def test_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_products, "CACHE", 1)
    rows = list(gpu_products.timings("cpu", Limits(1e9, 1e9), (None, Format.Q4_K), {"small": (16, 256)}, (1,)))
    assert [row.name for row in rows] == [f"{f} small x {n}" for f in ("bfloat16", "Q4_K") for n in (1,)]
    assert all(row.reached is not None and 0 < row.reached < 1 for row in rows)
