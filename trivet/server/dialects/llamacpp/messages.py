"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, as llama.cpp's server has it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import decode, read_body
from trivet.server.dialects.anthropic.conversation import prompt_tokens
from trivet.server.dialects.anthropic.messages import MessageAnswer, Reasons, reply
from trivet.server.dialects.anthropic.schemas import TokenCount
from trivet.server.dialects.llamacpp.models import model_name
from trivet.server.dialects.llamacpp.parameters import draw_seed, sampling_params, settings
from trivet.server.dialects.llamacpp.schemas import CountTokensBody, GenerationBody, MessagesBody
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service

MAX_TOKENS = 4096
"""Where the request does not say."""
REASONS = Reasons("max_tokens", "end_turn")


async def messages(service: Service, request: Request) -> Response:
    """Continue a conversation by one message: by 4096 tokens at most where `max_tokens` is left out."""
    body = decode(await read_body(request, service.options.payload_limit), MessagesBody)
    refuse_unsupported(body)
    options = GenerationBody(
        max_tokens=MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        stop=body.stop_sequences,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
    )
    given = settings(service, options)
    draw_seed(given)
    prompt = await prompt_tokens(service, body)
    service.check_length(prompt)
    params = sampling_params(service, given, 1, len(prompt))
    answer = MessageAnswer(f"msg_{request.state.request_id}", model_name(service), REASONS)
    return await reply(service, request, answer, prompt, params, bool(body.stream))


async def count_tokens(service: Service, request: Request) -> Response:
    """Count the tokens of a conversation's prompt."""
    body = decode(await read_body(request, service.options.payload_limit), CountTokensBody)
    refuse_unsupported(body)
    return json_response(TokenCount(len(await prompt_tokens(service, body))))
