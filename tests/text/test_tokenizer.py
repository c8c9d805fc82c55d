"""What holds for every tokenizer, whatever file it comes from; and its detokenizer."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.vocabs import KINDS, metadata, wordpiece
from trivet.errors import RequestError
from trivet.text.detokenizer import Detokenizer
from trivet.text.tokenizer import Tokenizer

ALL = (*KINDS, "bert")


@cache
def load(kind: str, seed: int = 0) -> Tokenizer:
    return Tokenizer._from_metadata(wordpiece() if kind == "bert" else metadata(kind, seed), kind)


kinds = st.sampled_from(ALL)
tokenizers = st.builds(load, kinds, st.integers(0, 20))


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Tokenizer, list[int]]:
    tokenizer = draw(tokenizers)
    return tokenizer, draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))


@given(sequences(), st.booleans())
def test_streamed_pieces_make_the_whole(sequence: tuple[Tokenizer, list[int]], skip: bool) -> None:
    tokenizer, ids = sequence
    detokenizer = Detokenizer(tokenizer, skip_special=skip)
    pieces = [detokenizer.push(i) for i in ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids, skip)


@given(sequences(), st.text(max_size=6), st.booleans())
def test_after_a_prompt(sequence: tuple[Tokenizer, list[int]], text: str, skip: bool) -> None:
    tokenizer, ids = sequence
    prompt = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer, prompt, skip)
    out = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert tokenizer.decode(prompt, skip) + out == tokenizer.decode(prompt + ids, skip)


@given(st.text(min_size=1, max_size=10))
def test_no_part_of_a_character_comes_out(text: str) -> None:
    tokenizer = load("gemma4")
    byte_ids = {tokenizer.token_bytes(i): i for i in range(3, 259)}
    detokenizer = Detokenizer(tokenizer)
    out = ""
    for byte in text.encode():
        out += detokenizer.push(byte_ids[bytes([byte])])
        assert text.startswith(out)
    assert out == text and detokenizer.flush() == ""


def test_a_character_cut_by_the_end_of_the_prompt_comes_out_whole() -> None:
    first, second = load("gemma4").encode("ü", add_special=False)
    detokenizer = Detokenizer(load("gemma4"), [first])
    assert detokenizer.push(second) == "ü"
    assert Detokenizer(load("gemma4"), [first]).flush() == "\ufffd"


@given(tokenizers, st.text(), st.booleans(), st.booleans())
def test_any_text_is_encoded_and_ids_are_valid(tokenizer: Tokenizer, text: str, add: bool, parse: bool) -> None:
    assert all(0 <= i < tokenizer.vocab_size for i in tokenizer.encode(text, add, parse))


@given(st.builds(load, st.sampled_from(["bpe", "gemma4"]), st.integers(0, 20)), st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("▁", " ")
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "\ude00\ud83d"])
def test_half_of_a_surrogate_pair(kind: str, text: str) -> None:
    with pytest.raises(RequestError, match="half of a surrogate pair") as caught:
        load(kind).encode(text)
    assert caught.value.parameter == "prompt"


@pytest.mark.parametrize("text", [None, b"a", 3, ["a"]])
def test_what_is_no_text(text: object) -> None:
    with pytest.raises(RequestError, match="the prompt must be text"):
        load("bpe").encode(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_out_of_range(token: int) -> None:
    tokenizer = load("bpe")
    for use in (
        tokenizer.token_bytes,
        tokenizer.token_text,
        Detokenizer(tokenizer).push,
        lambda i: tokenizer.decode([i]),
    ):
        with pytest.raises(RequestError, match=f"token id {token} is out of range: the vocabulary has"):
            use(token)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("text", ["a", "ab", " ", "\n", "=", "<", "中", "1", "<|im_end|>"])
def test_time_is_linear(kind: str, text: str) -> None:
    ids = load(kind).encode(text * (100_000 // len(text)))
    load(kind).decode(ids)
