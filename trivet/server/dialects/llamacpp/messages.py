"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, as llama.cpp's server has it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.dialects.anthropic.conversation import prompt_tokens
from trivet.server.dialects.anthropic.messages import Reasons, reply
from trivet.server.dialects.anthropic.schemas import TokenCount
from trivet.server.dialects.llamacpp.models import model_name
from trivet.server.dialects.llamacpp.parameters import first_n_predict
from trivet.server.dialects.llamacpp.schemas import CountTokensBody, MessagesBody
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service

MAX_TOKENS = 4096
"""Where the request does not say."""
REASONS = Reasons("max_tokens", "max_tokens", "end_turn")


async def messages(service: Service, request: Request) -> Response:
    """Continue a conversation by one message: by 4096 tokens at most where `max_tokens` is left out."""
    body = decode(await read_body(request, service.options.payload_limit), MessagesBody)
    refuse_unsupported(body)
    body.stop_sequences = [text for text in body.stop_sequences or [] if text]
    n_predict = first_n_predict(service, body.max_tokens, MAX_TOKENS)
    max_tokens = service.max_model_len if n_predict < 0 else max(1, n_predict)
    return await reply(service, request, body, model_name(service), max_tokens, REASONS)


async def count_tokens(service: Service, request: Request) -> Response:
    """Count the tokens of a conversation's prompt."""
    body = decode(await read_body(request, service.options.payload_limit), CountTokensBody)
    refuse_unsupported(body)
    return json_response(TokenCount(len(await prompt_tokens(service, body))))
