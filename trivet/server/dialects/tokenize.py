"""POST /tokenize and /detokenize, which vLLM and llama.cpp both have: the body tells whose it is."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.errors import TrivetError
from trivet.server.body import decode, read_body
from trivet.server.dialects.llamacpp.errors import DIALECT as LLAMACPP
from trivet.server.dialects.llamacpp.prompts import encode_prompt
from trivet.server.dialects.openai.chat import render
from trivet.server.dialects.openai.errors import DIALECT as OPENAI
from trivet.server.dialects.openai.requests import check_model
from trivet.server.dialects.openai.schemas import ChatBody
from trivet.server.endpoint import endpoint
from trivet.server.errors import Kind, Problem, problem_of
from trivet.server.service import Service


class Keys(Struct):
    """What tells the bodies apart: `content` is llama.cpp's, `messages` and `prompt` are vLLM's."""

    content: Any = UNSET
    messages: Any = UNSET


class LlamacppText(Struct):
    content: Any
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class VllmText(Struct):
    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class VllmChat(ChatBody, kw_only=True):
    return_token_strs: bool | None = None


class VllmTokens(Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Tokens(Struct):
    tokens: list[int]
    model: str | None = None


def routes(service: Service) -> list[Route]:
    return [
        Route("/tokenize", endpoint(service, OPENAI, tokenize), methods=["POST"]),
        Route("/detokenize", endpoint(service, OPENAI, detokenize), methods=["POST"]),
    ]


async def tokenize(service: Service, request: Request) -> Response:
    body = await read_body(request, service.options.payload_limit)
    keys = decode(body, Keys)
    if keys.content is UNSET:
        return _json(await _vllm(service, body, is_chat=keys.messages is not UNSET))
    try:
        return _json(await _llamacpp(service, decode(body, LlamacppText)))
    except (Problem, TrivetError) as error:
        return LLAMACPP.error_response(problem_of(error))


async def detokenize(service: Service, request: Request) -> Response:
    """Answers both: `prompt` is what vLLM's clients read, `content` what llama.cpp's do."""
    body = decode(await read_body(request, service.options.payload_limit), Tokens)
    check_model(service, body.model)
    vocab_size = service.llm.info.vocab_size
    wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise Problem(Kind.INVALID, f"token {wrong} is not in the vocabulary of {vocab_size} tokens", "tokens")
    text = service.llm.tokenizer.decode(body.tokens)
    return _json({"prompt": text, "content": text})


async def _vllm(service: Service, body: bytes, is_chat: bool) -> VllmTokens:
    given: VllmText | VllmChat
    if is_chat:
        given = decode(body, VllmChat)
        text, add_special = render(service, given), bool(given.add_special_tokens)
    else:
        given = decode(body, VllmText)
        text, add_special = given.prompt, given.add_special_tokens is not False
    check_model(service, given.model)
    tokens = await service.encode(text, add_special)
    token_text = service.llm.tokenizer.token_text
    strings = [token_text(token) for token in tokens] if given.return_token_strs else None
    return VllmTokens(len(tokens), service.max_model_len, tokens, strings)


async def _llamacpp(service: Service, given: LlamacppText) -> dict[str, Any]:
    tokens = await encode_prompt(
        service,
        given.content,
        add_special=bool(given.add_special),
        parse_special=given.parse_special is not False,
    )
    if not given.with_pieces:
        return {"tokens": tokens}
    return {"tokens": [{"id": token, "piece": _piece(service, token)} for token in tokens]}


def _piece(service: Service, token: int) -> str | list[int]:
    """The token's text, or its bytes where they are not text by themselves."""
    piece = service.llm.tokenizer.token_bytes(token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
