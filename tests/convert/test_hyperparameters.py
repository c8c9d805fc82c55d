"""Configurations said in GGUF, for every architecture, against files made by the `gguf` package's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.tiny import MODELS, Tiny
from trivet.convert import as_gguf, checkpoint
from trivet.errors import ModelError
from trivet.sampling.defaults import recommended
from trivet.weights import open_checkpoint
from trivet.weights.export import export
from trivet.weights.gguf import GGUFFile

DEFAULTS: dict[str, Any] = {
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.freq_base_swa": 10000.0,
}
"""Said by us and not by the package's file, which leaves it to be understood."""


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "vocabulary", lambda folder, size: {"tokenizer.ggml.model": "none"})


@pytest.mark.parametrize("tiny", [tiny for tiny in MODELS if tiny.gguf_arch], ids=str)
def test_a_converted_folder_is_the_file_that_others_make(tiny: Tiny, tmp_path: Path) -> None:
    source = as_gguf(open_checkpoint(tiny.write_folder(tmp_path / "tiny-model")))
    export(source, tmp_path / "ours.gguf", "F32")
    ours, theirs = GGUFFile(tmp_path / "ours.gguf"), GGUFFile(tiny.write_gguf(tmp_path / "theirs.gguf"))
    defaults = {f"{tiny.gguf_arch}.{key}": value for key, value in DEFAULTS.items()}
    assert {k: v for k, v in ours.metadata.items() if not k.startswith("general.")} == {
        **{k: v for k, v in defaults.items() if k in ours.metadata},
        **{k: v for k, v in theirs.metadata.items() if not k.startswith("general.")},
    }
    assert ours.metadata["general.architecture"] == theirs.metadata["general.architecture"]
    assert ours.metadata["general.name"] == "tiny-model"
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name in theirs.tensors:
        assert np.array_equal(ours.load(name).data, theirs.load(name).data), name
    assert as_gguf(ours) is ours


def test_recommended_sampling_is_converted(tmp_path: Path) -> None:
    folder = MODELS[0].write_folder(tmp_path / "hf")
    config = {"temperature": 1, "top_k": 20, "top_p": None, "repetition_penalty": 1.5, "max_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(config))
    export(as_gguf(open_checkpoint(folder)), tmp_path / "a.gguf", "F32")
    found = {k: v for k, v in GGUFFile(tmp_path / "a.gguf").metadata.items() if k.startswith("general.sampling.")}
    assert repr(sorted(found.items())) == repr(
        [("general.sampling.penalty_repeat", 1.5), ("general.sampling.temp", 1.0), ("general.sampling.top_k", 20)]
    )
    own = recommended(str(folder))
    assert own.pop("max_tokens") == 9
    assert recommended(str(tmp_path / "a.gguf")) == own


@pytest.mark.parametrize("tiny", [tiny for tiny in MODELS if not tiny.gguf_arch], ids=str)
def test_what_gguf_cannot_say_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path}/hf: GGUF cannot say that experts is .*; it would read as"):
        as_gguf(open_checkpoint(tiny.write_folder(tmp_path / "hf")))


def test_another_activation_is_refused(tmp_path: Path) -> None:
    tiny = Tiny("llama", MODELS[0].config | {"hidden_act": "gelu"}, "llama")
    with pytest.raises(ModelError, match="GGUF cannot say that act is gelu; it would read as silu"):
        as_gguf(open_checkpoint(tiny.write_folder(tmp_path / "hf")))


def test_the_name_of_a_model_in_the_hubs_cache(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--Small-1B" / "snapshots" / "0123abcd"
    folder.parent.mkdir(parents=True)
    source = as_gguf(open_checkpoint(MODELS[0].write_folder(folder)))
    assert source.metadata["general.name"] == "Small-1B"
