"""That the checks and timings of products run, and notice what is wrong, at sizes for the interpreter."""

from __future__ import annotations

import pytest
import torch

from bench import gpu_products
from bench.gpu_model import Limits
from trivet.weights.formats import Format


@pytest.mark.usefixtures("chains")
def test_checks() -> None:
    rows = list(gpu_products.checks("cpu", ((40, 64),), 64, 64, (None, Format.F16, Format.Q8_0), (1, 2)))
    assert len(rows) == 2 * 4 + 1 + 4 + 2
    assert [row for row in rows if row.verdict != "ok"] == []


def test_bits_that_differ() -> None:
    [row] = gpu_products.same_bits("mean", lambda x: x - x.mean(), torch.arange(5.0)[:, None], (1, 3, 5))
    assert (row.verdict, row.measured) == ("MISSED", "bits change with [1, 3] rows")


def test_timings() -> None:
    rows = list(gpu_products.timings("cpu", Limits(1e15, 1e15), (None, Format.Q4_K), {"small": (16, 256)}, (1,), 1))
    assert [row.name for row in rows] == [
        *(f"bfloat16 small x 1, {numerics}" for numerics in ("exact", "fast")),
        "Q4_K small x 1, exact",
    ]
    assert all(row.reached is not None and 0 < row.reached < 1 for row in rows)
