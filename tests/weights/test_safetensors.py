"""Hugging Face folders: what is read, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from trivet.errors import ModelError
from trivet.weights import open_checkpoint
from trivet.weights.formats import Format
from trivet.weights.safetensors import SafetensorsFolder

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)


def raw(**tensors: tuple[str, list[int], bytes]) -> bytes:
    """A safetensors file of given (dtype, shape, data), also of what the library's numpy side cannot write."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def folder(path: Path, files: dict[str, bytes], index: Any = None, config: bytes = b'{"model_type": "llama"}') -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_bytes(config)
    for name, data in files.items():
        (path / name).write_bytes(data)
    if index is not None:
        (path / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return path


def test_one_file(tmp_path: Path) -> None:
    model = SafetensorsFolder(folder(tmp_path, {"model.safetensors": save({"a": A, "b": B}, {"format": "pt"})}))
    assert model.config == {"model_type": "llama"}
    assert {name: (info.shape, info.format) for name, info in model.tensors.items()} == {
        "a": ((2, 3), Format.F32),
        "b": ((4,), Format.F16),
    }
    assert np.array_equal(model.load("a").data.view(np.float32), A)
    assert np.array_equal(model.load("b").data.view(np.float16), B)
    with pytest.raises(ModelError, match="no tensor 'c' among the 2"):
        model.load("c")


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_bfloat16_scalars_and_odd_offsets(tmp_path: Path, padding: int) -> None:
    bits = np.array([0x3F80, 0xC000], "<u2")
    pad = ("I8", [padding], bytes(padding))
    data = raw(pad=pad, x=("BF16", [1, 2], bits.tobytes()), scalar=("F32", [], struct.pack("<f", 2)))
    model = SafetensorsFolder(folder(tmp_path, {"model.safetensors": data}))
    assert model.load("x").info.format is Format.BF16
    assert np.array_equal(model.load("x").data.view(np.uint16)[0], bits)
    assert all(model.load(name).data.ctypes.data % 4 == 0 for name in ("x", "scalar"))
    assert model.tensors["scalar"].shape == (1,)
    assert model.load("scalar").data.view(np.float32)[0] == 2


def test_shards(tmp_path: Path) -> None:
    files = {"one.safetensors": save({"a": A, "unused": A}), "two.safetensors": save({"b": B})}
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    model = SafetensorsFolder(folder(tmp_path, files, index))
    assert list(model.tensors) == ["a", "b"]
    assert np.array_equal(model.load("b").data.view(np.float16), B)


ONE = {"model.safetensors": save({"a": A})}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no weights": ({"files": {"pytorch_model.bin": b""}}, "neither model.safetensors nor .*there is pytorch_model.bin"),
    "config is no JSON": ({"files": ONE, "config": b"{"}, "config.json: not valid JSON"),
    "config is no object": ({"files": ONE, "config": b"[]"}, "config.json: must hold a JSON object, not list"),
    "config is deep": ({"files": ONE, "config": b"[" * 100_000}, "config.json: not valid JSON"),
    "config is not UTF-8": ({"files": ONE, "config": b'{"a": "\xff"}'}, "config.json: not valid JSON"),
    "empty": ({"files": {"model.safetensors": b""}}, "model.safetensors: cannot be read as safetensors"),
    "truncated": ({"files": {"model.safetensors": save({"a": A})[:-1]}}, "cannot be read as safetensors"),
    "header": ({"files": {"model.safetensors": struct.pack("<Q", 2**60) + b"{}"}}, "cannot be read as safetensors"),
    "dtype": ({"files": {"model.safetensors": raw(x=("F8_E4M3", [1], b"0"))}}, "'x' is of type F8_E4M3; supported are"),
    "index is no JSON": ({"files": ONE, "index": "{"}, "index.json: not valid JSON"),
    "index is empty": ({"files": ONE, "index": {}}, "weight_map must be an object"),
    "index has a number": ({"files": ONE, "index": {"weight_map": {"a": 1}}}, "weight_map must be an object"),
    "shard missing": ({"files": ONE, "index": {"weight_map": {"a": "b.safetensors"}}}, "b.safetensors: cannot be read"),
    "shard outside": ({"files": ONE, "index": {"weight_map": {"a": "../x"}}}, "'../x', which is not a file of this"),
    "shard is the folder": ({"files": ONE, "index": {"weight_map": {"a": ""}}}, "cannot be read as safetensors"),
    "tensor missing": (
        {"files": ONE, "index": {"weight_map": {"z": "model.safetensors"}}},
        "no tensor 'z', though model.safetensors.index.json says so",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    arguments, reason = REFUSED[case]
    folder(tmp_path, **arguments)
    with pytest.raises(ModelError, match=f"{tmp_path}.*{reason}"):
        SafetensorsFolder(tmp_path)


def test_open_checkpoint_says_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither a Hugging Face folder \(no config.json\) nor"):
        open_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        open_checkpoint(tmp_path / "absent.gguf")
    with pytest.raises(ModelError, match="name the folder"):
        open_checkpoint(tmp_path / "model.safetensors")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"holds 2 GGUF models, name one: a.gguf, b.gguf"):
        open_checkpoint(tmp_path)
