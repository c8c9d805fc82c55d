"""GET /v1/models."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.dialects.openai.answers import ModelCard, ModelList, ModelPermission
from trivet.server.dialects.openai.requests import check_name
from trivet.server.json_response import json_response
from trivet.server.service import Service


async def models(service: Service, request: Request) -> Response:
    """The names that the model is served under."""
    return json_response(ModelList(data=[model_card(service, name) for name in service.names]))


async def model(service: Service, request: Request) -> Response:
    """One of the names that the model is served under."""
    name = request.path_params["name"]
    check_name(service, name)
    return json_response(model_card(service, name))


def model_card(service: Service, name: str) -> ModelCard:
    created = service.started
    return ModelCard(
        id=name,
        created=created,
        root=service.llm.info.name,
        max_model_len=service.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{created:x}", created=created)],
    )
