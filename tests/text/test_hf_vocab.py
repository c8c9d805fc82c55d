"""Tokenizers from Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tests.oracles.make_tokenizers import write_vocabulary
from tests.text.vocabs import SHARED, byte_alphabet, metadata
from trivet.errors import ModelError, RequestError
from trivet.text.tokenizer import Tokenizer

SPECIAL = ["<s>", "</s>", "<|im_end|>"]


def byte_level() -> tokenizers.Tokenizer:
    """Ids 0 to 255 are bytes; then special tokens, and two that are not special."""
    vocab = {char: i for i, char in enumerate(byte_alphabet())}
    pipeline = tokenizers.Tokenizer(models.BPE(vocab, []))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    pipeline.add_tokens([AddedToken(token, normalized=False) for token in ("<tool>", "<é>")])
    return pipeline


def folder(path: Path, pipeline: tokenizers.Tokenizer | None = None, **files: Any) -> Path:
    (path / "tokenizer.json").write_text((pipeline or byte_level()).to_str())
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / (name if "." in name else f"{name}.json")).write_text(text)
    return path


def test_it_encodes_as_the_library_does(tmp_path: Path) -> None:
    pipeline = byte_level()
    tokenizer = Tokenizer.load(folder(tmp_path, pipeline))
    for text in ("", "a", "Hello <tool> wörld</s>", "<é>\x00\n <s><s>"):
        ids = pipeline.encode(text).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special=True) == text.replace("<s>", "").replace("</s>", "")


def test_special_tokens_as_plain_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder(tmp_path))
    text = "a<|im_end|><tool><é></s>"
    ids = tokenizer.encode(text, parse_special=False)
    assert [i for i in ids if i >= 256] == [259, 260]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == [64, 258, 259, 260, 257]


def test_padding_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder(tmp_path))
    with pytest.raises(RequestError, match="token id 299 is out of range: the vocabulary has 261 tokens"):
        tokenizer.decode([299])
    tokenizer.widen(300)
    assert tokenizer.vocab_size == 300
    assert tokenizer.decode([64, 299, 65]) == "ab"


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({}, [257, 258]),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, [258, 257]),
        ({"special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}}, [258, 257]),
        ({"generation_config": {"eos_token_id": 7}, "config": {"eos_token_id": 9}}, [7, 9, 257, 258]),
        ({"generation_config": {"eos_token_id": [7, 258, 999]}}, [7, 258, 257]),
        ({"tokenizer_config": {"eos_token": "none such"}, "config": {"eos_token_id": None}}, [257, 258]),
    ],
)
def test_what_ends_a_generation(tmp_path: Path, files: dict[str, Any], eos: list[int]) -> None:
    assert Tokenizer.load(folder(tmp_path, **files)).eos_ids == eos


def test_bos(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "add_bos_token": True}
    tokenizer = Tokenizer.load(folder(tmp_path, tokenizer_config=config))
    assert (tokenizer.bos_id, tokenizer.names["bos_token"]) == (256, "<s>")
    assert tokenizer.encode("a") == [256, 64]
    assert tokenizer.encode("a", add_special=False) == [64]
    pipeline = byte_level()
    pipeline.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 257)])
    tokenizer = Tokenizer.load(folder(tmp_path, pipeline, tokenizer_config=config))
    assert tokenizer.encode("a") == [64, 257]
    assert tokenizer.encode("a", parse_special=False) == [64, 257]


def test_chat_templates(tmp_path: Path) -> None:
    listed = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    path = folder(tmp_path, tokenizer_config={"chat_template": listed})
    assert Tokenizer.load(path).chat_templates == {"default": "a", "tool_use": "b"}
    folder(tmp_path, tokenizer_config={}, processor_config={"chat_template": "p"})
    assert Tokenizer.load(path).chat_template == "p"
    folder(tmp_path, tokenizer_config={"chat_template": "c"})
    assert Tokenizer.load(path).chat_template == "c"
    folder(tmp_path, chat_template={"chat_template": "j"})
    assert Tokenizer.load(path).chat_template == "j"
    folder(tmp_path, **{"chat_template.jinja": "d"})
    assert Tokenizer.load(path).chat_template == "d"
    assert Tokenizer.load(path / "tokenizer.json").chat_template is None


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)], "a b é"),
        ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()], " a b é"),
        ([decoders.Metaspace(prepend_scheme="always")], "a b <0xC3><0xA9>"),
        ([decoders.Metaspace(prepend_scheme="never")], " a b <0xC3><0xA9>"),
    ],
)
def test_decoders_with_spelt_spaces(tmp_path: Path, steps: list[Any], text: str) -> None:
    vocab = {token: i for i, token in enumerate(["<unk>", "▁a", "▁b", "▁", "<0xC3>", "<0xA9>"])}
    pipeline = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    pipeline.decoder = decoders.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer = Tokenizer.load(folder(tmp_path, pipeline))
    ids = [1, 2, 3, 4, 5]
    assert tokenizer.decode(ids) == pipeline.decode(ids) == text


def test_decoding_wordpiece(tmp_path: Path) -> None:
    vocab = {token: i for i, token in enumerate(["[UNK]", "hello", "##s", "world"])}
    pipeline = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    pipeline.normalizer, pipeline.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    pipeline.decoder = decoders.WordPiece()
    tokenizer = Tokenizer.load(folder(tmp_path, pipeline))
    assert tokenizer.decode(tokenizer.encode("Hellos World")) == "hellos world"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{", "tokenizer.json: "),
        ("tokenizer.json", '{"model": 3}', "tokenizer.json: "),
        ("tokenizer_config.json", "[1", "tokenizer_config.json: not valid JSON"),
        ("config.json", "\x00", "config.json: not valid JSON"),
        ("generation_config.json", "[" * 100_000, "generation_config.json: not valid JSON"),
        ("tokenizer_config.json", '{"a": ' + "9" * 5000 + "}", "tokenizer_config.json: not valid JSON"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: str, reason: str) -> None:
    folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{reason}")


def test_a_decoder_that_is_not_known(tmp_path: Path) -> None:
    pipeline = byte_level()
    pipeline.decoder = decoders.CTC()
    with pytest.raises(ModelError, match=r'the decoder \{"type": "CTC"'):
        Tokenizer.load(folder(tmp_path, pipeline))


@pytest.mark.parametrize("name", ["none.json", "none", "none.gguf"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=name):
        Tokenizer.load(tmp_path / name)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_folder_with_a_gguf(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "vocab.gguf", metadata("bpe"))
    assert Tokenizer.load(tmp_path).encode("1<|im_end|>", add_special=False) == [16, 256]
    assert Tokenizer.load(folder(tmp_path)).vocab_size == 261


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is not there")
def test_a_folder_and_a_gguf_of_one_model() -> None:
    model = SHARED / "models/stories260k"
    from_folder, from_gguf = Tokenizer.load(model / "hf"), Tokenizer.load(model / "stories260k.gguf")
    assert from_folder.encode("Once upon a time") == [1, 403, 407, 261, 378]
    for text in (SHARED / "data/tinystories-sample.txt").read_text()[:50_000].split("\n"):
        ids = from_gguf.encode(text)
        assert from_folder.encode(text) == ids
        assert from_folder.decode(ids, skip_special=True) == from_gguf.decode(ids, skip_special=True) == text
    assert from_folder.eos_ids == from_gguf.eos_ids == [2]


@pytest.mark.compare
@pytest.mark.skipif(not SHARED.exists(), reason="../shared is not there")
def test_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    path = SHARED / "models/stories260k/hf"
    theirs, ours = transformers.AutoTokenizer.from_pretrained(path), Tokenizer.load(path)
    for text in (SHARED / "data/wikitext2.test.txt").read_text()[:100_000].split("\n"):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        for skip in (False, True):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
