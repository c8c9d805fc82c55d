"""What the ids of a tokenizer stand for, whatever file they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

SPACE = "▁"
"""How SentencePiece and its kin spell a space inside a token (U+2581)."""


@dataclass(frozen=True)
class Vocabulary:
    """
    tokens: each id's text as the file spells it (`▁the`, `Ġthe`); "" where there is none.
    piece: the bytes that an id adds to a text.
    special: ids that are markup (`<|im_end|>`), not text: `skip_special` leaves them out, and `parse_special=False`
        does not look for them.
    drops_space: a decoded text loses one leading space, the one that encoding put there.
    bos_id, eos_ids: begin of text, and all that end a generation.
    names: texts of special tokens by role (`bos_token`, `eos_token`, …), as chat templates see them.
    chat_templates: by name; the one to use is `default`.
    kind: the rule that cuts words into tokens: "bpe" (merges by rank), "spm" (by score), "wpm" or "ugm".
    fim: ids of the tokens for filling in the middle by role (`pre`, `suf`, `mid`, `pad`, `rep`, `sep`), as far as the
        model has them.
    """

    tokens: Sequence[str]
    piece: Callable[[int], bytes]
    special: frozenset[int]
    drops_space: bool
    bos_id: int | None = None
    eos_ids: list[int] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    fim: Mapping[str, int] = field(default_factory=dict)
    kind: str = "bpe"


class TokenIds(Protocol):
    """The texts of tokens to their ids."""

    def __contains__(self, text: object, /) -> bool: ...
    def __getitem__(self, text: str, /) -> int: ...
    def get(self, text: str, otherwise: int, /) -> int: ...


class Encoder(Protocol):
    """Text to ids; the text is valid Unicode."""

    def __call__(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...


def _byte_alphabet() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_ALPHABET = _byte_alphabet()
"""GPT-2's spelling of the 256 bytes: printable ones as themselves, the others as characters from U+0100 on."""

_OUTSIDE = 0xFFFF
_TO_LATIN1 = dict.fromkeys(range(256), _OUTSIDE) | {ord(char): byte for byte, char in enumerate(BYTE_ALPHABET)}


def byte_level_piece(token: str) -> bytes:
    """The bytes of a token spelt in GPT-2's byte alphabet; one that is not spelt so stands for its own text."""
    try:
        return token.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def byte_token(byte: int) -> str:
    return f"<0x{byte:02X}>"


def byte_token_value(token: str) -> int | None:
    """The byte that `byte_token` spells; None for other tokens."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


_END_OF_GENERATION = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)


def end_of_generation(ids: TokenIds) -> set[int]:
    """Those of the tokens `ids` whose text is known to end a generation, by llama.cpp's list."""
    found = {text for text in _END_OF_GENERATION if text in ids}
    if {"<|return|>", "<|call|>"} <= found or ("<|flush|>" in found and found & {"<|call|>", "<|calls|>"}):
        found.discard("<|end|>")  # Harmony: it ends a message, and more may follow
    if "<|tool_response>" in found or "<|plamo:eos|>" in ids:
        found.discard("</s>")  # a tag of HTML there
    return {ids[text] for text in found}


_FILL_IN_THE_MIDDLE = {
    "pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    "suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    "mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    "pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "sep": "<|file_sep|>",
}
FIM_ROLES = tuple(_FILL_IN_THE_MIDDLE)


def fill_in_the_middle(ids: TokenIds) -> dict[str, int]:
    """Those of the tokens `ids` whose text is known to serve for filling in the middle, by role."""
    return {
        role: next(ids[text] for text in texts.split() if text in ids)
        for role, texts in _FILL_IN_THE_MIDDLE.items()
        if any(text in ids for text in texts.split())
    }
