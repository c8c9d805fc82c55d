"""The routes of the OpenAI API."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.server.dialects.openai.chat import chat_completions
from trivet.server.dialects.openai.completions import completions
from trivet.server.dialects.openai.errors import DIALECT
from trivet.server.dialects.openai.requests import check_model
from trivet.server.dialects.openai.schemas import ModelCard, ModelList, ModelPermission
from trivet.server.endpoint import endpoint
from trivet.server.service import Service


def routes(service: Service) -> list[Route]:
    return [
        Route(
            "/v1/chat/completions",
            endpoint(service, DIALECT, chat_completions, generates=True),
            methods=["POST"],
        ),
        Route("/v1/completions", endpoint(service, DIALECT, completions, generates=True), methods=["POST"]),
        Route("/v1/models", endpoint(service, DIALECT, models), methods=["GET"]),
        Route("/v1/models/{name:path}", endpoint(service, DIALECT, model), methods=["GET"]),
    ]


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
