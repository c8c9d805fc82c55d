"""POST /tokenize and /chat_tokenize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import read_json
from trivet.server.dialects.tgi.chat import render
from trivet.server.dialects.tgi.openai_schemas import ChatBody
from trivet.server.dialects.tgi.schemas import ChatTokens, GenerateBody, PromptToken
from trivet.server.json_response import json_response
from trivet.server.service import Service

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer

SKIPPED_BYTES = 16
"""How far to look for a token's bytes, past those of the text that no token stands for."""


async def tokenize(service: Service, request: Request) -> Response:
    """Tell the tokens of a text, with those that a model reads around it."""
    body = await read_json(request, service.options.payload_limit, GenerateBody)
    with_special = await service.encode(body.inputs)
    tokens = await service.encode(body.inputs, add_special=False)
    before = _find(tokens, with_special)
    after = len(with_special) - before - len(tokens)
    end = len(body.inputs.encode())
    return json_response(
        [
            *(PromptToken(token, "", 0, 0) for token in with_special[:before]),
            *spans(service.llm.tokenizer, body.inputs, tokens),
            *(PromptToken(token, "", end, end) for token in with_special[len(with_special) - after :]),
        ]
    )


async def chat_tokenize(service: Service, request: Request) -> Response:
    """Tell the tokens of a conversation, as the model's template writes it."""
    body = await read_json(request, service.options.payload_limit, ChatBody)
    text = await render(service, body)
    tokens = await service.encode(text, add_special=False)
    return json_response(ChatTokens(spans(service.llm.tokenizer, text, tokens), text))


def spans(tokenizer: Tokenizer, text: str, tokens: Sequence[int]) -> list[PromptToken]:
    """Each token of a text with the bytes that it stands for, found by what it would be decoded to.

    A token that is not in the text as such, as where the tokenizer changes letters, stands for no bytes.
    """
    data = text.encode()
    at = 0
    found: list[PromptToken] = []
    for token in tokens:
        piece = tokenizer.token_bytes(token)
        if not found and not data.startswith(piece):
            piece = piece.removeprefix(b" ")  # which SentencePiece writes before a text
        start = data.find(piece, at, at + len(piece) + SKIPPED_BYTES)
        if start >= 0:
            at = start
        else:
            piece = b""
        found.append(PromptToken(token, piece.decode(errors="replace"), at, at + len(piece)))
        at += len(piece)
    return found


def _find(part: Sequence[int], whole: Sequence[int]) -> int:
    """Where `part` begins in `whole`, which it is a part of."""
    starts = range(len(whole) - len(part) + 1)
    return next((start for start in starts if whole[start : start + len(part)] == part), 0)
