"""The routes of the OpenAI API, and vLLM's own."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import body_keys, read_body
from trivet.server.dialects.openai import absent
from trivet.server.dialects.openai.chat import chat_batch, chat_completions
from trivet.server.dialects.openai.completions import completions
from trivet.server.dialects.openai.legacy import generate
from trivet.server.dialects.openai.models import model, models
from trivet.server.dialects.openai.responses.routes import OPERATIONS as RESPONSES
from trivet.server.dialects.openai.schemas import (
    ChatBatchBody,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    TokenizeChatBody,
)
from trivet.server.dialects.openai.tokenize import detokenize, tokenize
from trivet.server.endpoint import Operation
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


async def invocations(service: Service, request: Request) -> Response:
    """SageMaker's one path: a chat where the body has messages, a completion where it has a prompt."""
    keys = body_keys(await read_body(request, service.options.payload_limit))
    if "messages" in keys:
        return await chat_completions(service, request)
    if "prompt" in keys:
        return await completions(service, request)
    raise Problem(
        Kind.INVALID,
        "Cannot find suitable handler for request. Expected one of: ['ChatCompletionRequest', 'CompletionRequest']",
    )


OPERATIONS = [
    Operation("/v1/chat/completions", chat_completions, body=ChatBody, generates=True),
    Operation("/v1/chat/completions/batch", chat_batch, body=ChatBatchBody, generates=True),
    Operation("/v1/completions", completions, body=CompletionBody, generates=True),
    Operation("/v1/models", models, "GET"),
    Operation("/v1/models/{name:path}", model, "GET"),
    Operation("/tokenize", tokenize, body=TokenizeBody | TokenizeChatBody),
    Operation("/detokenize", detokenize, body=DetokenizeBody),
    Operation("/invocations", invocations, body=ChatBody | CompletionBody, generates=True),
    Operation("/generate", generate, body=CompletionBody, generates=True, keys=frozenset({"prompt"})),
    *absent.OPERATIONS,
    *RESPONSES,
]
