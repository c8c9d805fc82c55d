"""How each kind of BPE vocabulary cuts its text: as llama.cpp does, and for the four where it does not, as meant."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.text.vocabs import SHARED
from trivet.text.pre_tokenizers import PRE_TOKENIZERS
from trivet.text.tokenizer import Tokenizer
from trivet.weights.gguf import GGUFFile

APART = ("tiny_aya", "youtu", "kimi-k2", "superbpe")
"""llama.cpp simplifies the expressions of these."""
AS_LLAMA_CPP = sorted(
    {pre.patterns: name for name, pre in PRE_TOKENIZERS.items() if pre.byte_level and name not in APART}.values()
)
GOLDEN = Path(__file__).parents[1] / "oracles/tokenizers.json"
TEXTS = (
    "I'LL say it's we've HE'D  McMahon XMLHttpRequest,\n\n  \tnaïve  café\r\n\r\n x=1234567890.25; y_z/ü <b>``$^~|</b>",
    "   \n \n\n\t\t三体 3體 ひらがなカタカナ 한국어 말 12345٣٤ Ελλάδα Жёлтый “quoted”—‘x’ …！？。 "
    "½² e\u0301 ǅ ʰ 😀👍🏽 \u00a0\u3000end   ",
)


@cache
def small_gpt2() -> dict[str, Any]:
    """The metadata of GPT-2's vocabulary with only the first of its merges."""
    path = SHARED / "vocabs/ggml-vocab-gpt-2.gguf"
    if not path.exists():
        pytest.skip("../shared is not there")
    found = dict(GGUFFile(path).metadata)
    tokens, merges = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.merges"][:6000]
    kept = set(tokens[:256]) | {merge.replace(" ", "") for merge in merges}
    found["tokenizer.ggml.tokens"] = [token for token in tokens if token in kept]
    found["tokenizer.ggml.merges"] = merges
    found["tokenizer.ggml.token_type"] = [1] * len(kept)
    del found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]
    return {key: value for key, value in found.items() if key.startswith("tokenizer")}


def probe(pre: str) -> dict[str, Any]:
    return small_gpt2() | {"tokenizer.ggml.pre": pre}


@pytest.mark.parametrize("pre", AS_LLAMA_CPP)
def test_ids_are_those_of_llama_cpp(pre: str) -> None:
    tokenizer = Tokenizer._from_metadata(probe(pre), "probe")
    golden = json.loads(GOLDEN.read_text())["pre"][pre]
    assert [tokenizer.encode(text, add_special=False, parse_special=False) for text in TEXTS] == golden


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_long_texts_are_cut_alike(pre: str) -> None:
    known = PRE_TOKENIZERS[pre]
    for text in (*TEXTS, "".join(TEXTS) * 20):
        assert known.cutter()(text) == [word for word, _ in known.build().pre_tokenize_str(text)]


def test_other_threads_run_while_a_long_text_is_cut() -> None:
    cut, ticks, over = PRE_TOKENIZERS["llama3"].cutter(), [0], threading.Event()

    def tick() -> None:
        while not over.wait(0.0005):
            ticks[0] += 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(tick)
        before = ticks[0]
        cut("hello world " * 100_000)
        over.set()
    assert ticks[0] - before > 100


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("tiny_aya", "x 1234567 McMahon's", ["x", " ", "1", "234", "567", " Mc", "Mahon's"]),
        ("youtu", "ab三体한국 12 XMLHttp", ["ab", "三体", "한국", " ", "1", "2", " XMLHttp"]),
        ("kimi-k2", "三体x 12345 McMahon'S!\n", ["三体", "x", " ", "123", "45", " Mc", "Mahon'S", "!\n"]),
        ("superbpe", "a1234567b", ["a", "1", "234", "567", "b"]),
        ("afmoe", "a12345三体", ["a", "12", "345", "三体"]),
        ("whitespace", "ab  c", ["ab", "  ", "c"]),
        ("gemma4", "a b\n\nc", ["a b", "\n\n", "c"]),
    ],
)
def test_words(pre: str, text: str, words: list[str]) -> None:
    found = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in found] == words


def test_every_known_name_is_there() -> None:
    path = SHARED / "reference/bpe_pretokenizers.json"
    if not path.exists():
        pytest.skip("../shared is not there")
    known = json.loads(path.read_text())
    for name, entry in known["pre"].items():
        pre = PRE_TOKENIZERS[name]
        assert pre.byte_level == known["types"][entry["type"]]["byte_encode"]
        assert (pre.ignore_merges, pre.add_bos) == (entry.get("ignore_merges", False), entry.get("add_bos", False))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["7", " ", " \n"])
@pytest.mark.parametrize("pre", ["gpt-2", "llama3", "tiny_aya", "superbpe", "afmoe", "deepseek-llm"])
def test_time_is_linear(pre: str, text: str) -> None:
    text = text * (100_000 // len(text)) + "a"
    words = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    assert sum(end - start for _, (start, end) in words) == len(text)
