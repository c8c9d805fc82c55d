"""Special tokens in a text: against llama.cpp's rule, written down plainly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.text.special_tokens import SpecialTokens

words = st.lists(st.text("ab<>é", min_size=1, max_size=5), unique=True, max_size=6)


def split_plainly(tokens: dict[str, int], text: str) -> list[str | int]:
    parts: list[str | int] = [text]
    for token in sorted(tokens, key=lambda t: (-len(t.encode()), tokens[t])):
        rest, parts = parts, []
        for part in rest:
            if isinstance(part, int):
                parts.append(part)
                continue
            while (at := part.find(token)) >= 0:
                parts += [part[:at], tokens[token]]
                part = part[at + len(token) :]
            parts.append(part)
    return [part for part in parts if part != ""]


@given(words, st.text("ab<>é", max_size=40))
def test_longest_first(words: list[str], text: str) -> None:
    tokens = {word: i for i, word in enumerate(words)}
    assert SpecialTokens(tokens).split(text) == split_plainly(tokens, text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a \t<l> b", ["a", 0, " b"]),
        ("a <r> \n b", ["a ", 1, "b"]),
        (" <l> <r> ", [0, " ", 1]),
        ("<r>\u3000<l>", [1, "\u3000", 0]),
        (" <b> <b> ", [2, 2]),
    ],
)
def test_whitespace_around_them(text: str, parts: list[str | int]) -> None:
    assert SpecialTokens({"<l>": 0, "<r>": 1, "<b>": 2}, lstrip=[0, 2], rstrip=[1, 2]).split(text) == parts


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["<", "<unused", "<unused1", "\n"])
def test_time_is_linear_in_the_text_with_thousands_of_tokens(text: str) -> None:
    tokens = {f"<unused{i}>": i for i in range(6000)} | {"\n" * i: 6000 + i for i in range(2, 30)}
    parts = SpecialTokens(tokens).split(text * 50_000)
    assert len(parts) == (1 if text[0] == "<" else 50_000 // 29 + 1)
