"""The routes of the OpenAI API."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.server.dialects.openai.chat import chat_completions
from trivet.server.dialects.openai.completions import completions
from trivet.server.dialects.openai.requests import check_model
from trivet.server.dialects.openai.responses.routes import OPERATIONS as RESPONSES
from trivet.server.dialects.openai.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    ModelCard,
    ModelList,
    ModelPermission,
    TokenizeBody,
    TokenizeChatBody,
)
from trivet.server.dialects.openai.tokenize import detokenize, tokenize
from trivet.server.endpoint import Operation
from trivet.server.service import Service


async def models(service: Service, request: Request) -> Response:
    return _json(ModelList(data=[model_card(service, name) for name in service.names]))


async def model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    check_model(service, name)
    return _json(model_card(service, name))


def model_card(service: Service, name: str) -> ModelCard:
    created = service.started
    return ModelCard(
        id=name,
        created=created,
        root=service.llm.info.name,
        max_model_len=service.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{created:x}", created=created)],
    )


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


OPERATIONS = [
    Operation("/v1/chat/completions", chat_completions, body=ChatBody, generates=True),
    Operation("/v1/completions", completions, body=CompletionBody, generates=True),
    Operation("/v1/models", models, "GET"),
    Operation("/v1/models/{name:path}", model, "GET"),
    Operation("/tokenize", tokenize, body=TokenizeBody | TokenizeChatBody),
    Operation("/detokenize", detokenize, body=DetokenizeBody),
    *RESPONSES,
]
