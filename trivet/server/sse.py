"""Server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trivet.server.connection import while_connected
from trivet.server.errors import SHUTTING_DOWN, ClientGone, Problem, problem_of

KEEP_ALIVE_SECONDS = 15.0
DONE = b"data: [DONE]\n\n"
PLAIN = {"Content-Type": "text/event-stream"}
"""Header of streams whose type does not name the charset, as TGI's and llama.cpp's do not."""
COMMENT = b":\n\n"


def event(data: bytes) -> bytes:
    """Frame one message of compact JSON (no line breaks in it)."""
    return b"data: " + data + b"\n\n"


def named_event(message: Struct) -> bytes:
    """Frame a tagged message as an event that has its tag for a name."""
    return f"event: {message.__struct_config__.tag}\n".encode() + event(msgspec.json.encode(message))


async def event_stream(
    request: Request,
    events: AsyncGenerator[bytes, None],
    error_event: Callable[[Problem], bytes],
    headers: dict[str, str] | None = None,
    keep_alive: bytes = COMMENT,
) -> Response:
    """Stream framed `events`; an error after the first of them becomes `error_event`, the last thing sent.
    `keep_alive` is sent after each silence.

    The status line waits for the first event, at most KEEP_ALIVE_SECONDS: what is refused at once is raised here and
    so answered with its proper status.
    """
    first = asyncio.ensure_future(anext(events, b""))
    try:
        await while_connected(request.receive, asyncio.wait_for(asyncio.shield(first), KEEP_ALIVE_SECONDS))
    except TimeoutError:
        pass
    except BaseException:
        await _discard(first, events)
        raise
    return EventStream(first, events, error_event, headers, keep_alive)


class EventStream(Response):
    """The response made by `event_stream`. Closes `events` whichever way the connection ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: asyncio.Future[bytes],
        events: AsyncGenerator[bytes, None],
        error_event: Callable[[Problem], bytes],
        headers: dict[str, str] | None,
        keep_alive: bytes,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._error_event = error_event
        self._silence = keep_alive
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(send))
        except ClientGone:
            pass
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": self._error_event(SHUTTING_DOWN)})
        finally:
            await _discard(self._first, self._events)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        keep_alive = asyncio.ensure_future(self._keep_alive(send))
        try:
            async with aclosing(self._guarded()) as events:
                async for data in events:
                    self._sent_at = asyncio.get_running_loop().time()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            keep_alive.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _guarded(self) -> AsyncGenerator[bytes, None]:
        try:
            if data := await self._first:
                yield data
            async for data in self._events:
                yield data
        except Exception as error:
            yield self._error_event(problem_of(error))

    async def _keep_alive(self, send: Send) -> None:
        """Send something after each silence, so that no proxy takes a long prompt for a dead connection."""
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            await asyncio.sleep(self._sent_at + KEEP_ALIVE_SECONDS - loop.time())
            if loop.time() - self._sent_at >= KEEP_ALIVE_SECONDS:
                self._sent_at = loop.time()
                await send({"type": "http.response.body", "body": self._silence, "more_body": True})


async def _discard(first: asyncio.Future[bytes], events: AsyncGenerator[bytes, None]) -> None:
    """Close `events`, which cannot be closed while `first` still runs it."""
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await events.aclose()
