"""Tokenizers said in GGUF: the same ids, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from trivet.convert.vocabulary import vocabulary
from trivet.errors import ModelError
from trivet.text import tokenizer as text
from trivet.text.gguf_vocab import load_gguf_vocabulary
from trivet.weights.gguf import GGUFFile

STORIES = Path(__file__).resolve().parents[3] / "shared/models/stories260k"
CORPUS = [
    "The quick brown fox's 1234567 jumps;  over the lazy dog. DON'T you'll café \u4f60\u597d \U0001f600\n\n" * 3,
    "def f(x): return x + 10000 ** 2\r\n\tpass # ok   ",
]
# The expressions as the models' own files spell them.
CUTS: dict[str, tuple[pre_tokenizers.PreTokenizer, bool]] = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "starcoder": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        False,
    ),
    "llama3": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    Regex(
                        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                    ),
                    "isolated",
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        True,
    ),
    "qwen2": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    Regex(
                        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                    ),
                    "isolated",
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        False,
    ),
}


def byte_level(cut: pre_tokenizers.PreTokenizer, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


def write(path: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>"} | settings))
    return path


def read(metadata: dict[str, Any]) -> text.Tokenizer:
    return text.Tokenizer(*load_gguf_vocabulary(metadata, "metadata"))


@pytest.mark.parametrize("name", CUTS)
def test_byte_level_bpe(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(*CUTS[name]))
    size = byte_level(*CUTS[name]).get_vocab_size()
    metadata = vocabulary(folder, size + 2)
    original, converted = text.Tokenizer.load(folder), read(metadata)
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == name
    assert metadata["tokenizer.ggml.tokens"][-3:] == ["<tool>", f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert metadata["tokenizer.ggml.token_type"] == [3, 3, *[1] * (size - 3), 4, 5, 5]
    assert converted.eos_ids == original.eos_ids == [1]

    @settings(max_examples=50)
    @given(st.text() | st.sampled_from([*CORPUS, "a<|bos|>b <tool>c", "<|eos|>"]))
    def same_ids(sample: str) -> None:
        for flags in ((True, True), (True, False), (False, True)):
            assert converted.encode(sample, *flags) == original.encode(sample, *flags)
        assert converted.decode(converted.encode(sample)) == original.decode(original.encode(sample))

    same_ids()


def test_bos_padding_and_templates(tmp_path: Path) -> None:
    tokenizer = byte_level(CUTS["gpt-2"][0])
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|bos|> $A <|eos|>", None, [("<|bos|>", 0), ("<|eos|>", 1)]
    )
    templates = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    folder = write(tmp_path, tokenizer, pad_token="<|bos|>", chat_template=templates)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7, 300]}))
    metadata = vocabulary(folder, 500)
    assert {k.removeprefix("tokenizer."): v for k, v in metadata.items() if not isinstance(v, list)} == {
        "ggml.model": "gpt2",
        "ggml.pre": "gpt-2",
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": True,
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 1,
        "ggml.padding_token_id": 0,
        "ggml.eot_token_id": 7,
        "ggml.eom_token_id": 300,
        "chat_template": "A",
        "chat_template.tool_use": "B",
    }
    assert read(metadata).chat_templates == {"default": "A", "tool_use": "B"}


@pytest.mark.skipif(not STORIES.exists(), reason="../shared is absent")
def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    metadata, theirs = vocabulary(STORIES / "hf", 512), GGUFFile(STORIES / "stories260k.gguf").metadata
    expected = {k: v for k, v in theirs.items() if k.startswith("tokenizer.") and "scores" not in k}
    assert {k: v for k, v in metadata.items() if k in expected} == expected
    original, converted = text.Tokenizer.load(STORIES / "hf"), read(metadata)
    for sample in (*CORPUS, "", " ", "Once upon a time", "\U0001f600"):
        assert converted.encode(sample) == original.encode(sample)


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback_with_and_without_a_leading_space(prefix: bool, tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "<|eos|>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "a", "b", "\u2581a", "ab"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        [("\u2581", "a"), ("a", "b")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "<|eos|>"])
    metadata = vocabulary(write(tmp_path, tokenizer), len(pieces))
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    assert metadata["tokenizer.ggml.token_type"] == [2, 3, 3, *[6] * 256, *[1] * 5]
    assert metadata["tokenizer.ggml.scores"][-2:] == [0.0, -1.0]


def refused(change: str) -> tuple[Tokenizer, int]:
    tokenizer = byte_level(CUTS["gpt-2"][0])
    match change:
        case "kind":
            tokenizer = Tokenizer(models.WordLevel({"a": 0}, "a"))
        case "characters":
            tokenizer = Tokenizer(models.BPE({"a": 0}, []))
        case "cut":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case "normalizer":
            tokenizer.normalizer = normalizers.Lowercase()
        case "two":
            tokenizer.post_processor = processors.TemplateProcessing("<|bos|> <|bos|> $A", None, [("<|bos|>", 0)])
    return tokenizer, 200 if change == "size" else 500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("kind", "a tokenizer of type WordLevel cannot be converted, only BPE can"),
        ("characters", "BPE over characters cannot be converted"),
        ("cut", "GGUF has no name for the way in which this tokenizer cuts a text into words"),
        ("normalizer", "does what GGUF cannot say: 'Hello"),
        ("two", r"puts the tokens \[0, 0\] and \[\] around a text"),
        ("size", r"token \d+ is beyond the model's 200 tokens"),
    ],
)
def test_refused(change: str, reason: str, tmp_path: Path) -> None:
    tokenizer, size = refused(change)
    with pytest.raises(ModelError, match=f"tokenizer.json: .*{reason}"):
        vocabulary(write(tmp_path, tokenizer), size)
