"""What a GGUF's metadata recommends for sampling; `tests/api/test_llm.py` has that of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trivet.errors import ModelError
from trivet.sampling.defaults import recommended
from trivet.weights.gguf_writer import GGUFWriter


def write(path: Path, **sampling: Any) -> str:
    metadata = {"general.architecture": "llama"} | {f"general.sampling.{key}": v for key, v in sampling.items()}
    with GGUFWriter(path, metadata, []):
        return str(path)


ALL = {"top_p": 0.5, "min_p": 0.25, "xtc_probability": 0.5, "xtc_threshold": 0.25, "mirostat": 2, "mirostat_tau": 4.5}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, {}),
        ({"temp": 0.5, "top_k": 20}, {"temperature": 0.5, "top_k": 20}),
        ({"penalty_repeat": 1.5, "penalty_last_n": -1}, {"repetition_penalty": 1.5, "penalty_last_n": -1}),
        (ALL | {"mirostat_eta": 0.25}, ALL | {"mirostat_eta": 0.25}),
        ({"sequence": "top-k;unknown;typ_p;temp"}, {"stages": ("top_k", "typical_p", "temperature")}),
    ],
    ids=str,
)
def test_metadata(tmp_path: Path, sampling: dict[str, Any], expected: dict[str, Any]) -> None:
    path = write(tmp_path / "a.gguf", **sampling)
    assert recommended(path) == recommended(str(tmp_path)) == expected
    assert recommended(path, "vllm") == {}
    assert recommended(path, override={"top_k": 3}) == expected | {"top_k": 3}
    (tmp_path / "generation_config.json").write_text('{"top_k": 7}')
    assert recommended(path, str(tmp_path)) == {"top_k": 7}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"temp": "hot"}, "temp must be a number, got 'hot'"),
        ({"temp": -1.0}, "temp must be 0 or greater, got -1.0"),
        ({"temp": float("nan")}, "temp must be finite, got nan"),
        ({"top_k": 0.5}, "top_k must be an integer, got 0.5"),
        ({"top_k": True}, "top_k must be an integer, got True"),
        ({"top_p": [0.5]}, r"top_p must be a number, got \[0.5\]"),
        ({"penalty_repeat": 0.0}, "penalty_repeat must be greater than 0, got 0.0"),
        ({"mirostat": 3}, r"mirostat must be 0 \(off\), 1 or 2, got 3"),
        ({"sequence": 3}, "sequence must be names of samplers parted by semicolons, got 3"),
    ],
    ids=str,
)
def test_bad_metadata_is_named(tmp_path: Path, sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"a\.gguf: general\.sampling\.{message}"):
        recommended(write(tmp_path / "a.gguf", **sampling))
