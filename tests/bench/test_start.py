"""Starts and memory, of the built-in model, and what is told of them."""

from argparse import Namespace

import pytest

from bench import start
from bench.harness.environments import CannotRun
from bench.start import Found, Start
from trivet.weights.hub import BUILT_IN


def test_the_built_in_model_starts_and_reads_its_vocabulary(tmp_path, capsys):
    found = start.measure(BUILT_IN, Namespace(starts=2, context=256, threads=1, output=tmp_path / "out"))
    assert found.file_bytes == BUILT_IN.stat().st_size and found.cache_bytes > 0 and found.tokens >= 255
    assert len(found.starts) == 2 and all(0.05 < one.seconds < 60 for one in found.starts)
    assert all(20e6 < size < 400e6 for size in (found.peak_bytes, *(one.peak_bytes for one in found.starts)))
    assert capsys.readouterr().out.count(" s") == 3


def test_a_start_that_fails_says_why(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"no model")
    with pytest.raises(CannotRun, match=r"no\.gguf: trivet: error: .*no\.gguf"):
        start.start(tmp_path / "no.gguf", 256, 1, tmp_path / "log")


@pytest.mark.parametrize(
    ("seconds", "start_mb", "after_mb", "line"),
    [
        ([0.5, 0.6, 0.4], 100, 300, "kept | 0.50 | 40% | 100 | 40.0 | 100 | 300 | 305 |"),
        ([1.5], 100, 300, "MISSED | 1.50 | – | 100 | 40.0 | 100 | 300 | 305 |"),
        ([0.5], 100, 306, "MISSED | 0.50 | – | 100 | 40.0 | 100 | 306 | 305 |"),
        ([0.5], 306, 300, "MISSED | 0.50 | – | 100 | 40.0 | 306 | 300 | 305 |"),
    ],
)
def test_bounds(seconds, start_mb, after_mb, line, tmp_path):
    starts = [Start(one, start_mb * 10**6) for one in seconds]
    found = Found("m", 10**8, 40 * 10**6, starts, 1000, after_mb * 10**6)
    assert start.table([found]).splitlines()[-1] == f"| m | {line}"
