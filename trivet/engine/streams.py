"""The streams a client has open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from trivet.engine.request import EngineRequest, TokenChunk
from trivet.errors import OverloadedError, RequestError


class TokenStream(AsyncIterator[TokenChunk]):
    """The chunks of one request, ending after the one with a finish reason.

    Closing it before that, or dropping it, cancels the request. The client keeps the queue, never the stream.
    """

    def __init__(self, queue: asyncio.Queue[TokenChunk], cancel: Callable[[], None]) -> None:
        self._queue = queue
        self._cancel: Callable[[], None] | None = cancel

    async def __anext__(self) -> TokenChunk:
        if self._cancel is None:
            raise StopAsyncIteration
        chunk = await self._queue.get()
        if chunk.finish_reason is not None:
            self._cancel = None
        return chunk

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()

    def __del__(self) -> None:
        self._close()


class Streams:
    """Leads chunks to the streams of one event loop; `cancel` gets the id of a stream closed early."""

    def __init__(self, limit: int, cancel: Callable[[str], None]) -> None:
        self.limit = limit
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, asyncio.Queue[TokenChunk]] = {}
        self._endings: deque[float] = deque(maxlen=32)

    def open(self, request: EngineRequest) -> TokenStream:
        """Raises OverloadedError when `limit` streams are open, RequestError when the id is in use."""
        if len(self._queues) >= self.limit:
            raise OverloadedError(
                f"{len(self._queues)} requests run or wait, the most this engine takes; try again later",
                self._retry_after(),
            )
        if request.request_id in self._queues:
            raise RequestError(f"request id {request.request_id!r} is in use", "request_id")
        queue = self._queues[request.request_id] = asyncio.Queue()
        return TokenStream(queue, partial(self._close_soon, request.request_id))

    def deliver(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            queue = self._queues.get(chunk.request_id)
            if queue is None:
                continue
            queue.put_nowait(chunk)
            if chunk.finish_reason is not None:
                del self._queues[chunk.request_id]
                self._endings.append(monotonic())

    def end(self, finish_reason: str, error: str | None = None) -> None:
        """End all streams alike."""
        self.deliver([TokenChunk(request_id=i, finish_reason=finish_reason, error=error) for i in list(self._queues)])

    def _close_soon(self, request_id: str) -> None:
        # A dropped stream may be collected in any thread, and after the loop has gone.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close, request_id)

    def _close(self, request_id: str) -> None:
        if request_id in self._queues:
            self.deliver([TokenChunk(request_id=request_id, finish_reason="abort")])
            self._cancel(request_id)

    def _retry_after(self) -> float:
        """Seconds in which one request has lately ended, on average."""
        if len(self._endings) < 2:
            return 1.0
        return max(1.0, (self._endings[-1] - self._endings[0]) / (len(self._endings) - 1))
