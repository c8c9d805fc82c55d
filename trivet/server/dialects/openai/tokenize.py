"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import body_keys, decode, read_body
from trivet.server.dialects.openai.answers import Text, Tokens
from trivet.server.dialects.openai.conversation import render
from trivet.server.dialects.openai.requests import check_model
from trivet.server.dialects.openai.schemas import DetokenizeBody, TokenizeBody, TokenizeChatBody
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service


async def tokenize(service: Service, request: Request) -> Response:
    """A text, or a conversation as the model is prompted with it, as token ids."""
    body = await read_body(request, service.options.payload_limit)
    given: TokenizeBody | TokenizeChatBody
    if "messages" in body_keys(body):
        given = decode(body, TokenizeChatBody, strict=False)
        check_model(service, given.model)
        refuse_unsupported(given)
        text, add_special = await render(service, given.messages, given), bool(given.add_special_tokens)
    else:
        given = decode(body, TokenizeBody, strict=False)
        check_model(service, given.model)
        text, add_special = given.prompt, given.add_special_tokens is not False
    tokens = await service.encode(text, add_special)
    spelling = service.llm.tokenizer.spelling
    strings = [spelling(token) for token in tokens] if given.return_token_strs else None
    return json_response(Tokens(len(tokens), service.max_model_len, tokens, strings))


async def detokenize(service: Service, request: Request) -> Response:
    """Token ids as text: in `prompt` for vLLM's clients; llama.cpp's, whose requests look the same, read `content`."""
    given = decode(await read_body(request, service.options.payload_limit), DetokenizeBody, strict=False)
    check_model(service, given.model)
    service.check_tokens(given.tokens, "tokens")
    text = service.llm.tokenizer.decode(given.tokens)
    return json_response(Text(text, text))
