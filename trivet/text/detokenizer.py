"""Ids to text as they come, without ever letting out a part of a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from trivet.text.tokenizer import Tokenizer

_DECODER = codecs.getincrementaldecoder("utf-8")
_LONGEST_CHARACTER = 4


class Detokenizer:
    """The text of a growing sequence: all that `push` and `flush` return, put together, is what `Tokenizer.decode`
    makes of the whole, the text of `prompt_ids` left out.

    A character of which the prompt holds the first bytes comes out whole.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = _DECODER("replace")
        self._at_start = tokenizer.drops_space
        tail: list[bytes] = []
        for token in reversed(prompt_ids):
            if piece := self._bytes(token):
                self._at_start = False
                tail.insert(0, piece)
                if sum(map(len, tail)) >= _LONGEST_CHARACTER:
                    break
        self._decoder.decode(b"".join(tail))

    def push(self, token: int) -> str:
        """The text that is complete with this id. Raises RequestError when it is out of range."""
        piece = self._bytes(token)
        if self._at_start and piece:
            self._at_start = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """End the text: U+FFFD for a character that never became complete."""
        return self._decoder.decode(b"", final=True)

    def _bytes(self, token: int) -> bytes:
        piece = self._tokenizer.token_bytes(token)
        return b"" if self._skip_special and self._tokenizer.is_special(token) else piece
