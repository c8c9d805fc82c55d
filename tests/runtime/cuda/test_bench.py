"""bench/gpu.py, on small shapes and without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_attention, gpu_elementwise, gpu_sampler
from bench.gpu_table import Row, check


def test_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    choices = ("greedy", "log-probabilities")
    monkeypatch.setattr(gpu_sampler, "CHOICES", {name: gpu_sampler.CHOICES[name] for name in choices})
    rows = [
        *gpu_attention.checks("cpu", tiny=True),
        *gpu_elementwise.checks("cpu", 3, (256,), 4),
        *gpu_sampler.checks("cpu", 300, 1, 2),
    ]
    assert len(rows) == 8 + 19 + 3
    assert [row for row in rows if row.verdict != "ok"] == []


def test_verdicts() -> None:
    rows = [
        check("", 1, 2),
        check("", 3, 2),
        check("", float("nan"), 2),
        Row("", "", "", None, 1.0),
        Row("", "", "", 0.1),
    ]
    assert [row.verdict for row in rows] == ["ok", "MISSED", "MISSED", "MISSED", ""]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model(tmp_path: Path) -> None:
    """Agreement, and both numerics; only the speeds may miss their targets."""
    done = run("--interpret", "--only", "model", "--folder", tmp_path / "model", "--output", tmp_path / "gpu.json")
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert list(results) == ["agreement", "model", "model fast"]
    missed = {row["name"] for rows in results.values() for row in rows if row["verdict"] == "MISSED"}
    assert missed <= {"load weights", "decode 1 x 24", "decode 2 x 24", "prefill 16"}
    assert done.stdout.splitlines()[-1].endswith(f"{sum(map(len, missed_rows(results)))} MISSED")
    assert (tmp_path / "gpu.png").exists()
    assert (tmp_path / "model" / "config.json").exists()


def missed_rows(results: dict[str, list[dict[str, object]]]) -> list[list[dict[str, object]]]:
    return [[row for row in rows if row["verdict"] == "MISSED"] for rows in results.values()]


def test_what_fails_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    folder, output = tmp_path / "model", tmp_path / "gpu.json"
    done = run("--interpret", "--only", "quantized", "--folder", folder, "--output", output)
    [row, _] = json.loads(output.read_text())["results"]["quantized"]
    assert done.returncode == 1
    assert row["verdict"] == "MISSED" and "Error" in row["measured"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("bench.gpu needs an NVIDIA GPU") and len(done.stderr.splitlines()) == 1
