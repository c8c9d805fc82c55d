"""Tokenizers from GGUF metadata: real vocabularies, random ones as llama.cpp encodes them, and damaged ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.text import vocabs
from tests.text.vocabs import KINDS, SHARED, keys, metadata, wordpiece
from trivet._native import EncodedStrings
from trivet.errors import ModelError
from trivet.text.tokenizer import Tokenizer
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter

GOLDEN = Path(__file__).parents[1] / "oracles/tokenizers.json"
VOCABS = ("bert-bge", "deepseek-coder", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder")
SEPARATOR = "\n__ggml_vocab_test__\n"
CASES = 46


def load(found: dict[str, Any]) -> Tokenizer:
    return Tokenizer._from_metadata(found, "vocab.gguf")


def changed(kind: str = "bpe", /, **values: Any) -> dict[str, Any]:
    """A vocabulary with some keys set, or left out where the value is None."""
    found = metadata(kind) | {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def named(*tokens: str, kind: int = 3) -> Tokenizer:
    """A BPE vocabulary with further tokens, all of one type; token 0 ends a generation."""
    found = metadata("bpe")
    size = 256
    found |= keys("gpt2", tokens=[*found["tokenizer.ggml.tokens"][:size], *tokens], merges=[], eos_token_id=0)
    found |= keys("gpt2", token_type=[1] * size + [kind] * len(tokens), bos_token_id=0)
    return load(found)


@pytest.mark.parametrize("name", VOCABS)
def test_real_vocabularies(name: str) -> None:
    path = SHARED / f"vocabs/ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip("../shared is not there")
    tokenizer = Tokenizer.load(path)
    texts = Path(f"{path}.inp").read_bytes().decode().split(SEPARATOR)[:CASES]
    ids = [[int(i) for i in line.split()] for line in Path(f"{path}.out").read_text().split("\n")][:CASES]
    assert len(texts) == len(ids) == CASES
    assert [tokenizer.encode(text, add_special=False, parse_special=False) for text in texts] == ids
    if name != "bert-bge":  # the one that loses case and spaces
        assert [tokenizer.decode(line) for line in ids] == texts


@pytest.mark.parametrize("kind", KINDS)
def test_random_vocabularies(kind: str) -> None:
    for seed, cases in json.loads(GOLDEN.read_text())[kind].items():
        tokenizer = load(metadata(kind, int(seed)))
        for text, add_special, parse_special, ids in cases:
            assert tokenizer.encode(text, add_special, parse_special) == ids, (seed, text)


@pytest.mark.compare
@pytest.mark.parametrize("kind", KINDS)
def test_more_random_vocabularies(kind: str) -> None:
    pytest.importorskip("llama_cpp")
    from tests.oracles.make_tokenizers import LlamaCppTokenizer

    for seed in range(1000, 1100):
        draw, found = random.Random(seed), metadata(kind, seed)
        oracle, tokenizer = LlamaCppTokenizer(found), load(found)
        for _ in range(50):
            case = (vocabs.text(kind, draw), draw.random() < 0.5, draw.random() < 0.5)
            assert tokenizer.encode(*case) == oracle.encode(*case), (seed, case)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello WORLDS!", [2, 4, 5, 6, 7, 8, 3]),
        ("héllo  a\taa 中中", [2, 4, 9, 9, 10, 11, 11, 3]),
        ("hellox", [2, 1, 3]),
        ("hello\x00\u200b a" + "a" * 300, [2, 4, 9, *[10] * 300, 3]),
        (" ", [2, 3]),
        ("[SEP]a", [2, 3, 9, 3]),
    ],
)
def test_wordpiece(text: str, ids: list[int]) -> None:
    tokenizer = load(wordpiece())
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, add_special=False) == ids[1:-1]


def test_wordpiece_that_keeps_case_and_accents() -> None:
    found = wordpiece() | {"tokenizer.ggml.normalizer.lowercase": False}
    assert load(found).encode("hello Hello hállo", add_special=False) == [4, 1, 1]


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ({"pre": "gpt-2"}, [], []),
        ({"pre": "llama-bpe"}, [256], []),
        ({"pre": "llama-bpe", "add_bos_token": False}, [], []),
        ({"pre": "gpt-2", "add_bos_token": True, "add_eos_token": True}, [256], [256]),
        ({"pre": "gpt-2", "add_bos_token": True, "bos_token_id": None}, [], []),
    ],
)
def test_what_is_put_around_a_text(flags: dict[str, Any], before: list[int], after: list[int]) -> None:
    tokenizer = load(changed("bpe", **flags))
    assert tokenizer.encode("") == before + after
    assert tokenizer.encode("1") == before + tokenizer.encode("1", add_special=False) + after


@pytest.mark.parametrize("space", [True, False, None])
def test_sentencepiece_puts_a_space_before_a_text_and_takes_it_away(space: bool | None) -> None:
    tokenizer = load(changed("sentencepiece", add_space_prefix=space))
    for text in ("a", "b<s>a", " a"):
        ids = tokenizer.encode(text, add_special=False)
        assert tokenizer.token_text(ids[0]).startswith(" ") == (space is not False or text[0] == " ")
        assert tokenizer.decode(ids) == text.replace("<s>", "<s>" if space is False else "<s> ")


@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep", "padding"])
def test_named_ids_that_end_a_generation(name: str) -> None:
    tokenizer = load(changed("bpe", **{f"{name}_token_id": 7}))
    assert (7 in tokenizer.eos_ids) == (name not in ("bos", "padding"))
    assert (tokenizer.eos_ids[0] == 7) == (name == "eos")


@pytest.mark.parametrize("found", [2**32 - 1, -1, 3])
@pytest.mark.parametrize(("model", "ends"), [("llama", [2]), ("gpt2", [])])
def test_ids_of_no_token_are_ignored(model: str, ends: list[int], found: int, caplog: pytest.LogCaptureFixture) -> None:
    tokens = ["a", "b", "c"]
    tokenizer = load(keys(model, tokens=tokens, merges=[], eos_token_id=found, seperator_token_id=found))
    assert tokenizer.eos_ids == ends
    assert [record.message for record in caplog.records] == [
        f"vocab.gguf: tokenizer.ggml.{role}_token_id is {found}, expected one of the 3 tokens; it is ignored"
        for role in ("eos", "seperator")
    ]


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["<|eot_id|>", "<|eom_id|>", "<x>"], [0, 256, 257]),
        (["<|end|>", "<end_of_turn>"], [0, 256, 257]),
        (["<|end|>", "<|return|>", "<|call|>"], [0, 257, 258]),
        (["<|end|>", "<|flush|>", "<|calls|>"], [0, 257, 258]),
        (["<|end|>", "<|return|>"], [0, 256, 257]),
        (["</s>", "<|tool_response>"], [0, 257]),
        (["</s>", "[EOT]", "_<EOT>"], [0, 256, 257, 258]),
        (["[PAD]", "<|file_sep|>", "<|fim_prefix|>", "<|repo_name|>", "<reponame>"], [0, 256, 257, 259]),
    ],
)
def test_texts_that_end_a_generation(tokens: list[str], ends: list[int]) -> None:
    for kind in (1, 3, 4):
        tokenizer = named(*tokens, kind=kind)
        assert tokenizer.eos_ids == ends
        assert all(map(tokenizer.is_special, ends[1:]))


def test_harmony_shows_its_tokens() -> None:
    tokenizer = named("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
    ids = tokenizer.encode("<|start|>a<|message|><|end|><|call|>", parse_special=False)
    assert ids[0] == 256 and ids[2:4] == [257, 258] and len(ids) > 6
    assert tokenizer.decode([256, 258, 260], skip_special=True) == "<|start|><|end|>"


def test_unused_tokens_and_bytes() -> None:
    tokenizer = load(keys("llama", tokens=["<unk>", "<pad>", "<0x41>", "a", ""], token_type=[2, 5, 6, 1, 1]))
    assert [tokenizer.token_text(i) for i in range(5)] == ["<unk>", "", "A", "a", "[EMPTY_4]"]
    assert tokenizer.encode("éa", add_special=False) == [0, 0, 3]


def test_phi_3_swallows_space_after_its_tokens() -> None:
    found = changed("bpe", pre="gpt-2") | {"general.name": "Phi-3 mini"}
    tokenizer = load(found)
    end = found["tokenizer.ggml.tokens"].index("<|im_end|>")
    assert tokenizer.encode("1<|im_end|> \n 1") == [*tokenizer.encode("1"), end, *tokenizer.encode("1")]


def test_chat_templates() -> None:
    found = metadata("bpe") | {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    tokenizer = load(found)
    assert tokenizer.chat_templates == {"default": "plain", "tool_use": "tools"}
    assert tokenizer.chat_template == "plain"
    assert load(metadata("bpe")).chat_template is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": None}, "tokenizer.ggml.model is missing, expected one of bert, gemma4, gpt2, llama"),
        ({"model": "rwkv"}, "model is 'rwkv', expected one of bert"),
        ({"model": 3}, "model is 3, expected one of"),
        ({"pre": "gpt-9"}, "pre is 'gpt-9', expected one of default, falcon, gpt-2"),
        ({"tokens": None}, "tokens is [], expected at least one token"),
        ({"tokens": []}, "tokens is [], expected at least one token"),
        ({"tokens": [1, 2]}, "tokens is [1, 2], expected a list of texts"),
        ({"tokens": "abc"}, "tokens is 'abc', expected a list of texts"),
        ({"token_type": [1, 2]}, "token_type is [1, 2], expected 2"),
        ({"token_type": ["a"]}, "token_type is ['a'], expected a list of numbers"),
        ({"merges": [5]}, "merges is [5], expected a list of texts"),
        ({"eos_token_id": 2**32}, "eos_token_id is 4294967296, expected an integer between -2147483648 and 4294967295"),
        ({"bos_token_id": "1"}, "bos_token_id is '1', expected"),
        ({"add_bos_token": 1}, "add_bos_token is 1, expected true or false"),
        ({"model": "llama", "scores": [0.0]}, "scores is [0.0], expected 2"),
    ],
)
def test_damaged_metadata(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=r"^vocab\.gguf: ") as caught:
        load(changed("bpe", **values))
    assert reason in str(caught.value)


@pytest.mark.parametrize("merges", [["q z"], ["nothing"], [" "], ["a b", "zz zz"]])
def test_merges_that_make_no_token_are_of_no_use(merges: list[str]) -> None:
    tokenizer = load(changed("bpe", pre="gpt-2", merges=merges))
    assert tokenizer.decode(tokenizer.encode("qzab")) == "qzab"


def test_of_equal_tokens_the_last_is_used() -> None:
    tokens = ["<unk>", "<s>", "</s>", "a", "▁", "a"]
    tokenizer = load(keys("llama", tokens=tokens, token_type=[2, 3, 3, 1, 1, 1], add_space_prefix=False))
    assert tokenizer.encode("aa", add_special=False) == [5, 5]
    assert tokenizer.decode([3, 5]) == "aa"


EMPTY = keys("llama", tokens=["<unk>", "a", "", "", "b"])


@pytest.mark.parametrize("found", [*map(metadata, KINDS), wordpiece(), EMPTY])
def test_the_strings_of_a_file_stay_there(found: dict[str, Any], tmp_path: Path) -> None:
    """Of a vocabulary's half a million, Python sees hardly any."""
    with GGUFWriter(tmp_path / "vocab.gguf", found, ()):
        pass
    file = GGUFFile(tmp_path / "vocab.gguf")
    tokenizer, expected = Tokenizer.from_checkpoint(file), load(found)
    tokens = range(expected.vocab_size)
    assert [tokenizer.spelling(i) for i in tokens] == [expected.spelling(i) for i in tokens]
    text = "".join(map(expected.token_text, tokens))
    assert tokenizer.encode(text) == expected.encode(text)
    lists = {key for key in found if key.endswith((".tokens", ".merges"))}
    assert {key for key in lists if isinstance(file.metadata.encoded(key), EncodedStrings)} == lists
