"""Finding the tokens that are looked for in the text itself, before a model cuts the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

_WHITESPACE = " \t\n\v\f\r"


class SpecialTokens:
    """llama.cpp's rule: the longest token first, each taken from left to right out of what is still text.

    tokens: text to id. lstrip, rstrip: ids that swallow the ASCII whitespace before or after them.
    """

    def __init__(self, tokens: Mapping[str, int], lstrip: Iterable[int] = (), rstrip: Iterable[int] = ()) -> None:
        self._tokens = tokens
        self._lstrip = frozenset(lstrip)
        self._rstrip = frozenset(rstrip)

    def split(self, text: str) -> list[str | int]:
        """Cut a text into ids and the non-empty texts between them."""
        parts: list[str | int] = [text] if text else []
        for token in self._occurring(text):
            parts = [part for whole in parts for part in self._cut(whole, token)]
        return parts

    def _occurring(self, text: str) -> list[str]:
        """The tokens that are in a text, longest first."""
        if not self._tokens:
            return []
        longest = set(self._anywhere.findall(text))
        found = self._tokens.keys() & {token[:end] for token in longest for end in range(1, len(token) + 1)}
        return sorted(found, key=lambda token: (-len(token.encode()), self._tokens[token]))

    @cached_property
    def _anywhere(self) -> re.Pattern[str]:
        """Finds at each place the longest token that starts there."""
        return re.compile(f"(?=({_alternatives(self._tokens)}))")

    def _cut(self, part: str | int, token: str) -> list[str | int]:
        if isinstance(part, int) or token not in part:
            return [part]
        token_id = self._tokens[token]
        between = part.split(token)
        if token_id in self._lstrip:
            between[:-1] = [piece.rstrip(_WHITESPACE) for piece in between[:-1]]
        if token_id in self._rstrip:
            between[1:] = [piece.lstrip(_WHITESPACE) for piece in between[1:]]
        parts: list[str | int] = [between[0]] if between[0] else []
        for piece in between[1:]:
            parts += [token_id, piece] if piece else [token_id]
        return parts


def _alternatives(words: Iterable[str]) -> str:
    """A regular expression that matches the longest of the words in time linear in its length: their trie."""
    root: dict[str, dict] = {}
    for word in words:
        node = root
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}

    def pattern(node: dict[str, dict]) -> str:
        branches = [re.escape(char) + pattern(child) for char, child in node.items() if char]
        if not branches:
            return ""
        joined = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
        return joined + ("?" if "" in node else "")

    return pattern(root)
