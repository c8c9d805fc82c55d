"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.dialects.llamacpp.prompts import encode_prompt
from trivet.server.dialects.llamacpp.schemas import DetokenizeBody, TokenizeBody
from trivet.server.service import Service


async def tokenize(service: Service, request: Request) -> Response:
    """A text's token ids, with the pieces that they stand for if wanted."""
    given = decode(await read_body(request, service.options.payload_limit), TokenizeBody)
    tokens = await encode_prompt(
        service,
        given.content,
        add_special=bool(given.add_special),
        parse_special=given.parse_special is not False,
    )
    if not given.with_pieces:
        return _json({"tokens": tokens})
    return _json({"tokens": [{"id": token, "piece": _piece(service, token)} for token in tokens]})


async def detokenize(service: Service, request: Request) -> Response:
    """The text that token ids stand for."""
    given = decode(await read_body(request, service.options.payload_limit), DetokenizeBody)
    service.check_tokens(given.tokens, "tokens")
    return _json({"content": service.llm.tokenizer.decode(given.tokens)})


def _piece(service: Service, token: int) -> str | list[int]:
    """The token's text, or its bytes where they are not text by themselves."""
    piece = service.llm.tokenizer.token_bytes(token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
