"""A checkpoint written as a GGUF file in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from trivet.errors import ModelError
from trivet.weights import export as export_module
from trivet.weights.export import export
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_values import ValueType
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.mixes import MIXES
from trivet.weights.quantize import quantize
from trivet.weights.tensor import TensorInfo

RNG = np.random.default_rng(0)
VALUES = {
    "token_embd.weight": RNG.standard_normal((40, 256), np.float32),
    "blk.0.attn_q.weight": RNG.standard_normal((70, 256), np.float32),
    "blk.0.ffn_up_exps.weight": RNG.standard_normal((3, 5, 256), np.float32),
    "output_norm.weight": RNG.standard_normal(256, np.float32),
}
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "small": 3,
    "list": [1, 2],
    "general.file_type": 0,
}
TYPES = {"small": ValueType.UINT8, "list": ValueType.INT64}


def model(path: Path, fmt: Format = Format.F32, values: dict[str, np.ndarray] = VALUES) -> GGUFFile:
    infos = [TensorInfo(name, x.shape, fmt) for name, x in values.items()]
    with GGUFWriter(path, METADATA, infos, TYPES) as writer:
        for name, x in values.items():
            writer.write(name, x if fmt is Format.F32 else quantize(x, fmt))
    return GGUFFile(path)


@pytest.mark.parametrize(
    ("source", "mix"),
    [(Format.F32, mix) for mix in MIXES]
    + [(fmt, mix) for fmt in (Format.F16, Format.BF16) for mix in ("F32", "Q4_K_M")],
)
def test_every_tensor_is_quantised_whole(
    source: Format, mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_CHUNK", 1000)  # three rows at a time
    seen: list[str] = []
    original = model(tmp_path / "source.gguf", source)
    written = export(original, tmp_path / "out.gguf", mix, lambda info: seen.append(info.name))
    file = GGUFFile(tmp_path / "out.gguf")
    assert file.tensors == written
    assert seen == list(VALUES)
    assert file.metadata == METADATA | {
        "general.file_type": MIXES[mix][1],
        "general.quantization_version": 2,
    }
    assert file.types["small"] is ValueType.UINT8
    assert file.types["list"] is ValueType.INT64
    for name, info in file.tensors.items():
        x = gguf.quants.dequantize(original.load(name).data, gguf.GGMLQuantizationType(source.type_id))
        assert np.array_equal(file.load(name).data, quantize(x.reshape(info.shape), info.format))


def test_what_is_quantised_already_stays_or_is_refused(tmp_path: Path) -> None:
    quantized = {name: x for name, x in VALUES.items() if x.ndim > 1}
    source = model(tmp_path / "q8.gguf", Format.Q8_0, quantized)
    export(source, tmp_path / "same.gguf", "Q8_0")
    for name in quantized:
        assert np.array_equal(GGUFFile(tmp_path / "same.gguf").load(name).data, source.load(name).data)
    with pytest.raises(ModelError, match=r"'token_embd.weight' is Q8_0 already; quantise from an F32, F16 or BF16"):
        export(source, tmp_path / "other.gguf", "Q4_0")
    assert not (tmp_path / "other.gguf").exists()


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (-np.inf, "not finite"), (1e9, "too large")])
def test_bad_values_are_named_and_leave_no_file(value: float, reason: str, tmp_path: Path) -> None:
    bad = VALUES["blk.0.attn_q.weight"].copy()
    bad[40, 7] = value
    source = model(tmp_path / "bad.gguf", values=VALUES | {"blk.0.attn_q.weight": bad})
    with pytest.raises(ModelError, match=rf"'blk.0.attn_q.weight' cannot become Q8_0: .*{reason}"):
        export(source, tmp_path / "out.gguf", "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_folder_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(export_module, "quantize")  # Nothing is computed before.
    with pytest.raises(ModelError, match=rf"^{tmp_path}: is a folder; name the file to write"):
        export(model(tmp_path / "a.gguf"), tmp_path, "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_system_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(export_module.os, "sched_getaffinity")
    assert export(model(tmp_path / "a.gguf"), tmp_path / "b.gguf", "Q8_0").keys() == VALUES.keys()


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    source = model(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match=r"a.gguf: would overwrite the model that is read"):
        export(source, tmp_path / "a.gguf", "Q8_0")


def test_a_file_without_an_architecture(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "a.gguf", {}, []):
        pass
    with pytest.raises(ModelError, match=r"general.architecture is None"):
        export(GGUFFile(tmp_path / "a.gguf"), tmp_path / "b.gguf", "Q8_0")
