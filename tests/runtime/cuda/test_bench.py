"""bench/gpu.py, on small shapes and without a GPU."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu, gpu_attention, gpu_elementwise, gpu_memory, gpu_sampler
from bench.gpu_agreement import Answers, beside
from bench.gpu_model import Limits, Span, idle
from bench.gpu_sections import BLOCKS
from bench.gpu_table import Row, check, failure, untargeted


def test_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    choices = ("greedy", "log-probabilities")
    monkeypatch.setattr(gpu_sampler, "CHOICES", {name: gpu_sampler.CHOICES[name] for name in choices})
    rows = [
        *(row for shape, size in gpu_attention.TINY.items() for row in gpu_attention.checks("cpu", shape, size, True)),
        *gpu_elementwise.checks("cpu", 3, (256,), 4),
        *gpu_sampler.checks("cpu", 300, 1, 2),
    ]
    assert len(rows) == 8 + 19 + 3
    assert [row for row in rows if row.verdict != "ok"] == []


def test_timings_of_attention() -> None:
    shape, sizes, limits = gpu_attention.Heads(2, 1, 16), ((1, 16),), Limits(1e15, 1e15)
    rows = list(gpu_attention.timings("cpu", limits, shape, sizes, sizes, gpu_attention.cache_bytes(shape, 1, 16)))
    assert [row.name for row in rows] == ["attention 2/1 x 16, 1 x 16 causal", "attention 2/1 x 16, 1 x 1 of 16"]
    assert all(row.reached is not None and 0 < row.reached < 1 and row.target == 0.7 for row in rows)


@pytest.mark.parametrize(
    ("spans", "share"), [([(2, 4)], 0), ([(0, 4), (3, 6), (8, 10)], 0.2), ([(8, 10), (0, 6), (1, 2)], 0.2)]
)
def test_the_share_of_steps_in_which_nothing_runs(spans: list[Span], share: float) -> None:
    assert idle([("", span) for span in spans]) == pytest.approx(share)


def test_verdicts() -> None:
    rows = [
        check("", 1, 2),
        check("", 3, 2),
        check("", float("nan"), 2),
        Row("", "", "", None, 1.0),
        Row("", "", "", 0.1),
    ]
    assert [row.verdict for row in rows] == ["ok", "MISSED", "MISSED", "MISSED", ""]


def test_what_is_only_measured() -> None:
    rows = [Row("", "", "", 0.5, 0.7), check("", 1, 0), failure("", ValueError())]
    assert [untargeted(row).verdict for row in rows] == ["", "MISSED", "MISSED"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model(tmp_path: Path) -> None:
    """Agreement, and both numerics; only the speeds may miss their targets."""
    done = run("--interpret", "--only", "model", "--folder", tmp_path / "model", "--output", tmp_path / "gpu.json")
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert set(results) == {"agreement", "first start", "model", "model fast"}
    missed = {row["name"] for rows in results.values() for row in rows if row["verdict"] == "MISSED"}
    assert missed <= {"load weights", "decode 1 x 24", "decode 2 x 24", "prefill 16"}
    assert done.stdout.splitlines()[-1].endswith(f"{sum(map(len, missed_rows(results)))} MISSED")
    assert (tmp_path / "gpu.png").exists()
    assert (tmp_path / "model" / "config.json").exists()


def test_settings(tmp_path: Path) -> None:
    run("--interpret", "--only", "settings", "--folder", tmp_path / "model", "--output", tmp_path / "gpu.json")
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert set(results) == {"fp8 cache", "eager"}
    assert missed_rows(results) == [[], []]
    asked = {name: [row["name"] for row in rows if row["target"] is not None] for name, rows in results.items()}
    logits = [f"logits of {rows}" for rows in ("pieces of prompts, 83 rows", "decoded tokens, 9 rows")]
    company = "greedy tokens, 1 at a time"
    assert asked["fp8 cache"] == [f"fp8 cache: {what}" for what in (*logits, company)]
    assert asked["eager"] == [f"eager: {what}" for what in (*logits, "greedy answers", company)]


@pytest.mark.parametrize(
    ("error", "tolerance", "verdicts"),
    [
        (0, 0, ["ok", "ok", "ok"]),
        (1e-7, 0, ["ok", "MISSED", "MISSED"]),
        (math.nan, 0, ["ok", "MISSED", "MISSED"]),
        (0.1, 0.15, ["ok", "ok", ""]),
        (0.2, 0.15, ["ok", "MISSED", ""]),
        (math.nan, 0.15, ["ok", "MISSED", ""]),
    ],
)
def test_wrong_values_are_missed(error: float, tolerance: float, verdicts: list[str]) -> None:
    right = Answers(np.ones((3, 4), np.float32), np.ones((2, 4), np.float32), [[1, 2], [3]])
    wrong = replace(right, decoded=right.decoded + np.float32(error), tokens=[[1, 2], [4 if error else 3]])
    assert [row.verdict for row in beside("", wrong, right, tolerance)] == verdicts


def test_memory(tmp_path: Path) -> None:
    run("--interpret", "--only", "memory", "--folder", tmp_path / "model", "--output", tmp_path / "gpu.json")
    [*rows, _] = json.loads((tmp_path / "gpu.json").read_text())["results"]["memory"]
    assert [row["verdict"] for row in rows] == ["ok", "ok"]
    assert rows[0]["measured"].startswith("gpu_memory_utilization 0.01 lets 10.24 MiB of 1.00 GiB be in use")
    assert re.match(r"num_blocks 10000000 asks for .* of KV cache, but .* are free", rows[1]["measured"])


@pytest.mark.parametrize(
    ("says", "code", "verdict"),
    [
        ("Loading …\ntrivet: error: num_blocks 10000000 asks for too much", 1, "ok"),
        ("trivet: error: num_blocks 10000000 asks for too much", 0, "MISSED"),
        ("trivet: error: the GPU is gone", 1, "MISSED"),
        ("Traceback (most recent call last)\ntrivet: error: num_blocks 10000000 asks for too much", 1, "MISSED"),
        ("torch.OutOfMemoryError: num_blocks 10000000 asks for too much", 1, "MISSED"),
        ("", -9, "MISSED"),
    ],
)
def test_other_ends_are_missed(says: str, code: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code, "", says))
    assert gpu_memory.row("the cache", Path("model"), False).verdict == verdict


def test_quantized(tmp_path: Path) -> None:
    """On a machine without the model; nothing is asked of its speeds."""
    done = run("--interpret", "--only", "quantized", "--folder", tmp_path / "model", "--output", tmp_path / "gpu.json")
    [rows] = json.loads((tmp_path / "gpu.json").read_text())["results"].values()
    assert done.returncode == 0, done.stdout
    assert {"load weights", "decode 1 x 24", "decode 2 x 24", "prefill 16"} <= {row["name"] for row in rows}
    asked = {row["name"] for row in rows if row["target"] is not None}
    assert asked == {"host memory at its peak", "model: greedy tokens, 1 at a time"}


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


FAULTY = """
import os, subprocess, sys, time
print('{"name": "good", "measured": "1"}', flush=True)
match sys.argv[1]:
    case "attention checks":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    case "product checks":
        print("not a line")
    case "elementwise checks":
        time.sleep(600)
    case "sampling checks":  # what it has started would hold the pipe open
        subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
    case "product checks, Q4_K Q5_K":
        os.abort()
"""


def test_no_section_takes_others_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the device, garbage, sections that hang or die: each is a line, and the others have theirs."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setattr(gpu, "COMMAND", [sys.executable, str(tmp_path / "faulty.py")])
    monkeypatch.setattr(gpu, "SECTION_SECONDS", 0.3)
    output = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--interpret", "--only", "checks", "kernels", "--output", str(output)])
    began = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 1 and time.monotonic() - began < 30
    results = json.loads(output.read_text())["results"]
    said = {name: {row["name"]: row["measured"] for row in rows} for name, rows in results.items()}
    assert all(rows.pop("good") == "1" and rows.pop(f"time of {name}") for name, rows in said.items())
    assert said == {
        "attention checks": {
            "rest of attention checks": "RuntimeError: CUDA error: an illegal memory access was encountered"
        },
        "attention checks, other heads": {},
        "product checks": said["product checks"],
        **{f"product checks, {some}": {} for some in BLOCKS},
        "product checks, Q4_K Q5_K": {"rest of product checks, Q4_K Q5_K": "exit status -6"},
        "elementwise checks": {"rest of elementwise checks": "the time was over"},
        "sampling checks": {"rest of sampling checks": "the time was over"},
        "kernels": {},
    }
    assert said["product checks"]["what product checks says"].startswith("DecodeError")


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY.replace("match", "time.sleep(600)\nmatch"))
    monkeypatch.setattr(gpu, "COMMAND", [sys.executable, str(tmp_path / "faulty.py")])
    output = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--interpret", "--minutes", "0.05", "--output", str(output)])
    began = time.monotonic()
    with pytest.raises(SystemExit):
        gpu.main()
    assert time.monotonic() - began < 30
    results = json.loads(output.read_text())["results"]
    assert set(results) == set(gpu.SECTIONS)
    late = ["the time was over", "not run: the time was over"]
    for name, rows in results.items():
        assert [row["measured"] for row in rows if row["verdict"] == "MISSED"] == [late[name not in FIRST]], name


def test_an_end_from_outside(tmp_path: Path) -> None:
    """Results so far are there, and nothing of the benchmark runs on."""
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "bench.gpu", "--interpret", "--only", "kernels", "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "this device" not in process.stdout.readline():
            pass
        process.terminate()
        rest = process.stdout.read()
        assert process.wait() == 1
    assert "interrupted" in rest
    results = json.loads(output.read_text())["results"]
    assert results["kernels"][0]["name"] == "this device, measured"
    assert results["interrupted"][0]["measured"] == "not run"


FIRST = list(gpu.SECTIONS)[: gpu.TOGETHER]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("bench.gpu needs an NVIDIA GPU") and len(done.stderr.splitlines()) == 1
