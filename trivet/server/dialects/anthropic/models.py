"""GET /v1/models, as it is for clients that send `anthropic-version`."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.dialects.anthropic.schemas import Model, ModelPage
from trivet.server.dialects.openai.requests import check_name
from trivet.server.json_response import json_response
from trivet.server.query import page_limit
from trivet.server.service import Service

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000


async def models(service: Service, request: Request) -> Response:
    """List the names of the model; `after_id`, `before_id` and `limit` cut out a page."""
    query, names = request.query_params, service.names
    if "after_id" in query:
        names = names[_place(service, query["after_id"]) + 1 :]
    if "before_id" in query:
        names = names[: _place(service, query["before_id"])]
    limit = page_limit(request, DEFAULT_LIMIT, MAX_LIMIT)
    page = names[-limit:] if "before_id" in query else names[:limit]
    data = [_model(service, name) for name in page]
    first, last = (page[0], page[-1]) if page else (None, None)
    body = ModelPage(data, first, last, len(page) < len(names))
    return json_response(body)


async def model(service: Service, request: Request) -> Response:
    """Describe the model under one of its names."""
    name = request.path_params["name"]
    check_name(service, name)
    return json_response(_model(service, name))


def _place(service: Service, name: str) -> int:
    check_name(service, name)
    return service.names.index(name) if name in service.names else 0


def _model(service: Service, name: str) -> Model:
    return Model(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(service.started, UTC).isoformat().replace("+00:00", "Z"),
        max_input_tokens=service.max_model_len,
        max_tokens=service.max_model_len,
    )
