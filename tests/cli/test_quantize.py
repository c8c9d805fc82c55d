"""`trivet convert` and `trivet quantize`, from the command line."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.models.tiny import MODELS, VOCAB
from trivet.weights.gguf import GGUFFile

LLAMA = next(tiny for tiny in MODELS if tiny.name == "llama")


@pytest.fixture
def folder(tmp_path):
    path = LLAMA.write_folder(tmp_path / "hf")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCAB - 1]
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate([*alphabet, "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_convert_then_quantize_is_quantize(trivet, folder, tmp_path):
    code, out, err = trivet("convert", str(folder), str(tmp_path / "f32.gguf"))
    assert (code, err) == (0, "")
    assert "F32" in out
    assert out.splitlines()[-1].endswith("32.00 bits per weight")
    for source, target in (("f32.gguf", "a.gguf"), ("hf", "b.gguf")):
        code, out, _ = trivet("quantize", str(tmp_path / source), str(tmp_path / target), "--to", "q8_0")
        assert code == 0
        assert "Q8_0" in out
    a, b = GGUFFile(tmp_path / "a.gguf"), GGUFFile(tmp_path / "b.gguf")
    assert a.metadata == b.metadata
    assert a.metadata["general.file_type"] == 7
    assert a.tensors == b.tensors
    assert all(np.array_equal(a.load(name).data, b.load(name).data) for name in a.tensors)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["quantize", "a", "b"], 2, "missing option '--to'"),
        (["quantize", "a", "b", "--to", "Q9"], 2, "invalid value for '--to': must be one of F32, F16, BF16, Q8_0"),
        (["quantize", "a", "b", "--to", "Q4_K"], 1, "a: no such file or folder, nor a hub id"),
        (["convert", "a"], 2, "missing argument 'DST'"),
        (["convert", "a", "b"], 1, "a: no such file or folder, nor a hub id"),
        (["convert", ".", "b"], 1, ".: neither a Hugging Face folder"),
    ],
)
def test_errors_are_one_line(trivet, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    assert trivet(*args)[::2] == (code, f"trivet: error: {message}" + trivet(*args)[2].split(message)[-1])
    assert trivet(*args)[2].count("\n") == 1


def test_a_target_that_cannot_be_written(trivet, folder, tmp_path):
    code, _, err = trivet("convert", str(folder), str(tmp_path / "none" / "x.gguf"))
    assert (code, err) == (1, f"trivet: error: {tmp_path}/none/x.gguf: cannot be written: No such file or directory\n")
