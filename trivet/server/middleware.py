"""What wraps every request: an id, and a line in the log if wanted."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("trivet.access")
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def current_request_id() -> str | None:
    """The id of the request that is being answered, if any is, for whoever does not have the request at hand."""
    return _request_id.get()


class RequestId:
    """Puts an id in `request.state.request_id` and the headers: the client's own, or a new one.

    OpenAI's and most other clients read it in `X-Request-Id`, Anthropic's in `Request-Id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        _request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({"X-Request-Id": request_id, "Request-Id": request_id})
            await send(message)

        await self._app(scope, receive, send_with_id)


class AccessLog:
    """One line a request when it is over: never its text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            seconds = time.perf_counter() - started
            line = (scope["method"], scope["path"], status, seconds, scope["state"]["request_id"])
            logger.info("%s %s %d %.3fs %s", *line)
