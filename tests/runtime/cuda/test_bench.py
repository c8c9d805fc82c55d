"""The checks of bench/gpu.py, on small shapes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import gpu_kernels
from bench.gpu import table


def test_checks(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    assert not table(gpu_kernels.checks("cpu", tiny=True))
    assert len(capsys.readouterr().out.splitlines()) == 9


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    run = subprocess.run([sys.executable, "-m", "bench.gpu"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "needs an NVIDIA GPU" in run.stderr
