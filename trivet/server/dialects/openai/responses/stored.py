"""GET and DELETE /v1/responses/{id}, its input items, and POST /v1/responses/{id}/cancel."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.server import sse
from trivet.server.dialects.openai.responses.events import Error
from trivet.server.dialects.openai.responses.schemas import DeletedResponse, ItemPage, StoredResponse
from trivet.server.errors import Kind, Problem
from trivet.server.json_response import json_response
from trivet.server.query import integer, page_limit
from trivet.server.recording import Recording
from trivet.server.records import records_of
from trivet.server.service import Service

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
MAX_EVENTS = 2**31 - 1
INCLUDABLE = frozenset(
    {
        *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
        *("message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs"),
        *("reasoning.encrypted_content", "message.output_text.logprobs"),
    }
)
"""What a response can be asked to include; most of it belongs to items that do not come up here."""


def find(service: Service, response_id: str, parameter: str = "response_id") -> StoredResponse:
    """A response that is kept. Raises Problem when there is none of this id."""
    found = records_of(service).get(response_id)
    if found is None:
        raise Problem(Kind.NOT_FOUND, f"Response with id '{response_id}' not found.", parameter)
    return msgspec.json.decode(found, type=StoredResponse)


def check_include(names: Sequence[str]) -> None:
    for name in names:
        if name not in INCLUDABLE:
            message = f"include must be made of {', '.join(sorted(INCLUDABLE))}; got {name!r}"
            raise Problem(Kind.INVALID, message, "include")


async def retrieve(service: Service, request: Request) -> Response:
    """Tell a response that is kept, or how far one in the background has come; of the latter, `stream` has the events
    `starting_after` one of them.
    """
    query = request.query_params
    check_include([*query.getlist("include"), *query.getlist("include[]")])
    stored = find(service, request.path_params["response_id"])
    if query.get("stream") != "true":
        return json_response(stored.response)
    recording = records_of(service).recording(stored.response.id)
    if recording is None:
        raise Problem(Kind.INVALID, "only a response in the background can be streamed later", "stream")
    return await play(request, recording, integer(request, "starting_after", -1, 0, MAX_EVENTS) + 1)


async def play(request: Request, recording: Recording, start: int = 0) -> Response:
    """Stream what is recorded of a response in the background, from one of its events on."""

    def broken_off(problem: Problem) -> bytes:
        return sse.named_event(Error(code="server_error", message=problem.message))

    return await sse.event_stream(request, recording.follow(start), broken_off)


async def cancel(service: Service, request: Request) -> Response:
    """End a response in the background."""
    response_id = request.path_params["response_id"]
    if not find(service, response_id).response.background:
        raise Problem(Kind.INVALID, "Cannot cancel a synchronous response.", "response_id")
    await records_of(service).stop(response_id)
    stored = find(service, response_id)
    if stored.response.status in ("queued", "in_progress"):
        stored.response.status = "cancelled"
        records_of(service).put(response_id, msgspec.json.encode(stored))
    return json_response(stored.response)


async def delete(service: Service, request: Request) -> Response:
    """Forget a response; one in the background ends."""
    response_id = request.path_params["response_id"]
    find(service, response_id)
    await records_of(service).stop(response_id)
    records_of(service).remove(response_id)
    return json_response(DeletedResponse(response_id))


async def input_items(service: Service, request: Request) -> Response:
    """List what a response was made of, page by page, the latest first unless `order` is "asc"."""
    query = request.query_params
    check_include([*query.getlist("include"), *query.getlist("include[]")])
    limit = page_limit(request, DEFAULT_LIMIT, MAX_LIMIT)
    items = find(service, request.path_params["response_id"]).input
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Problem(Kind.INVALID, f"order must be asc or desc, got {order!r}", "order")
    if order == "desc":
        items.reverse()
    if (after := query.get("after")) is not None:
        ids = [item.id for item in items]
        if after not in ids:
            raise Problem(Kind.NOT_FOUND, f"there is no item {after!r} in this response", "after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return json_response(ItemPage(data=page, first_id=first, last_id=last, has_more=len(page) < len(items)))
