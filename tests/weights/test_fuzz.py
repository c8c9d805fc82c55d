"""Damaged model files: whatever their bytes are, they load or raise ModelError."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.safetensors import SafetensorsFolder
from trivet.weights.tensor import Checkpoint, TensorInfo

INTERESTING = [0, 1, 7, 8, 9, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few bit flips, overwritten numbers, cuts and spliced pieces, at places drawn as fractions of the length."""
    place = st.floats(0, 1)
    steps = draw(
        st.lists(st.tuples(st.integers(0, 4), place, place, st.sampled_from(INTERESTING)), min_size=1, max_size=4)
    )

    def mutate(data: bytes) -> bytes:
        for kind, a, b, number in steps:
            i, j = sorted((int(a * len(data)), int(b * len(data))))
            if kind == 0 and i < len(data):
                data = data[:i] + bytes([data[i] ^ 1 << number % 8]) + data[i + 1 :]
            elif kind == 1:
                data = data[:i] + number.to_bytes(8, "little") + data[i + 8 :]
            elif kind == 2:
                data = data[:i]
            elif kind == 3:
                data = data[:i] + data[j:]
            elif kind == 4:
                data = data[:j] + data[i:j] + data[j:]
        return data

    return mutate


def load_everything(open_model: Callable[[Path], Checkpoint | SafetensorsFolder], path: Path) -> None:
    try:
        model = open_model(path)
        for name, info in model.tensors.items():
            data = model.load(name).data
            assert data.nbytes == info.num_bytes
            data.sum()
    except ModelError as e:
        assert str(path) in str(e)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def gguf(folder: Path) -> bytes:
    metadata = {"general.architecture": "x", "flags": [True], "scores": [1.0], "words": ["a", "bc", ""], "n": -1}
    infos = [TensorInfo("a", (2, 2, 4), Format.F32), TensorInfo("b", (1, 256), Format.Q6_K)]
    with GGUFWriter(folder / "seed.gguf", metadata, infos) as writer:
        for info in infos:
            writer.write(info.name, np.zeros(info.num_bytes, np.uint8))
    return (folder / "seed.gguf").read_bytes()


@settings(max_examples=600, deadline=2000)
@given(mutate=mutations())
def test_gguf(folder: Path, gguf: bytes, mutate: Callable[[bytes], bytes]) -> None:
    path = folder / "fuzzed.gguf"
    path.write_bytes(mutate(gguf))
    load_everything(GGUFFile, path)


@settings(max_examples=300, deadline=2000)
@given(mutate=mutations(), index=st.booleans())
def test_safetensors(folder: Path, mutate: Callable[[bytes], bytes], index: bool) -> None:
    weights = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float16)})
    (folder / "config.json").write_text("{}")
    listing = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}).encode()
    (folder / "model.safetensors").write_bytes(weights if index else mutate(weights))
    (folder / "model.safetensors.index.json").write_bytes(mutate(listing) if index else listing)
    load_everything(SafetensorsFolder, folder)


@settings(max_examples=100, deadline=2000)
@given(data=st.binary(max_size=100))
def test_arbitrary_bytes(folder: Path, data: bytes) -> None:
    for name, head in (("x.gguf", b"GGUF\x03\0\0\0"), ("config.json", b"")):
        (folder / name).write_bytes(head + data)
    load_everything(GGUFFile, folder / "x.gguf")
    load_everything(SafetensorsFolder, folder)
