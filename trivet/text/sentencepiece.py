"""SentencePiece vocabularies from a GGUF, on the `sentencepiece` library.

The library reads a protocol buffer (its `ModelProto`); the fields below are all that encoding needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum

from sentencepiece import SentencePieceProcessor

from trivet.errors import ModelError
from trivet.text.vocabulary import SPACE


class PieceType(IntEnum):
    """`ModelProto.SentencePiece.Type`, which GGUF's `token_type` took over."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """`TrainerSpec.ModelType`."""

    UNIGRAM = 1
    BPE = 2


_MERGED = (PieceType.USER_DEFINED, PieceType.UNUSED)
"""Types that llama.cpp merges like normal pieces."""


def bpe_encoder(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], unknown: int, space_prefix: bool
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids: adjacent pieces are merged, the pair that makes the token
    of the highest score first and of those the leftmost; what is no token becomes byte tokens, or else `unknown`.

    Unlike llama.cpp, merging never makes a control or byte token out of the text that spells it.
    """
    kinds = [PieceType.NORMAL if kind in _MERGED else kind for kind in types]
    processor = _processor(tokens, scores, kinds, unknown, Algorithm.BPE, _normalizer())

    def encode(text: str) -> list[int]:
        return processor.encode(((" " if space_prefix else "") + text).replace(" ", SPACE))

    return encode


def unigram_encoder(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    unknown: int,
    charsmap: bytes,
    space_prefix: bool,
    remove_extra_spaces: bool,
) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids: the most likely sequence of tokens by their scores.

    charsmap: SentencePiece's compiled normalisation rules.
    """
    normalizer = _normalizer(charsmap, space_prefix, remove_extra_spaces, escape=True)
    return _processor(tokens, scores, types, unknown, Algorithm.UNIGRAM, normalizer).encode


def _processor(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    unknown: int,
    algorithm: Algorithm,
    normalizer: bytes,
) -> SentencePieceProcessor:
    bytes_complete = {f"<0x{byte:02X}>" for byte in range(256)} <= {
        token for token, kind in zip(tokens, types, strict=True) if kind == PieceType.BYTE
    }
    last = {token: i for i, token in enumerate(tokens)}
    model = bytearray()
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        if i == unknown:
            kind = PieceType.UNKNOWN
        elif kind == PieceType.UNKNOWN or (kind == PieceType.BYTE and not bytes_complete):
            kind = PieceType.CONTROL
        if last[token] != i:
            token, kind = f"[DUPLICATE_{i}]", PieceType.CONTROL
        text = token.encode()
        model += _message(1, b"\x0a%b%b\x15%b\x18%c" % (_varint(len(text)), text, struct.pack("<f", score), kind))
    model += _message(2, _number(3, algorithm) + _number(35, bytes_complete))
    model += _message(3, normalizer)
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(bytes(model))
    except RuntimeError as error:
        raise ModelError(f"the tokenizer's vocabulary is not valid: {error}") from None
    return processor


def _normalizer(
    charsmap: bytes = b"", space_prefix: bool = False, remove_extra_spaces: bool = False, escape: bool = False
) -> bytes:
    """A `NormalizerSpec`."""
    flags = _number(3, space_prefix) + _number(4, remove_extra_spaces) + _number(5, escape)
    return _message(1, b"identity") + _message(2, charsmap) + flags


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the high bit set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
