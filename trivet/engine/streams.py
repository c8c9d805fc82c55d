"""The streams a client has open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from time import monotonic

import msgspec

from trivet.engine.request import EngineRequest, TokenChunk
from trivet.errors import OverloadedError


class TokenStream(AsyncIterator[TokenChunk]):
    """The chunks of one request, ending after the one with a finish reason.

    Closing it before that, or dropping it, cancels the request. The client keeps the queue, never the stream.

    Tokens that have piled up while the reader was busy come as one chunk, so that it has less to do for each when it
    has fallen behind; an error comes alone.
    """

    def __init__(self, queue: asyncio.Queue[TokenChunk], cancel: Callable[[], None]) -> None:
        self._queue = queue
        self._cancel: Callable[[], None] | None = cancel
        self._error: TokenChunk | None = None

    async def __anext__(self) -> TokenChunk:
        if self._cancel is None:
            raise StopAsyncIteration
        chunk = self._error or await self._queue.get()
        while chunk.tokens and chunk.finish_reason is None and not self._queue.empty():
            following = self._queue.get_nowait()
            if following.error is not None:
                self._error = following
                break
            chunk.join(following)
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
    """Leads chunks to the streams of a client; `cancel` gets the id of a stream closed early.

    Requests get ids of their own here, so that callers may use theirs again and again: a chunk of a cancelled request
    may still be on its way when the next of the same name comes.
    """

    def __init__(self, limit: int, cancel: Callable[[str], None]) -> None:
        self.limit = limit
        self._cancel = cancel
        self._ids = count()
        self._queues: dict[str, tuple[str, asyncio.Queue[TokenChunk]]] = {}
        """By our id: the caller's, and where its chunks go."""
        self._endings: deque[float] = deque(maxlen=32)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._queues)

    def open(self, request: EngineRequest) -> tuple[TokenStream, EngineRequest]:
        """Returns the stream and the request for the engine. Raises OverloadedError when `limit` streams are open."""
        if len(self._queues) >= self.limit:
            raise OverloadedError(
                f"{len(self._queues)} requests run or wait, the most this engine takes; try again later",
                self._retry_after(),
            )
        request_id = str(next(self._ids))
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._queues[request_id] = request.request_id, queue
        close = partial(_call_soon, asyncio.get_running_loop(), self._close, request_id)
        own = msgspec.structs.replace(request, request_id=request_id, generated=list(request.generated))
        return TokenStream(queue, close), own

    def deliver(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            if chunk.request_id not in self._queues:
                continue
            if chunk.finish_reason is not None:
                name, queue = self._queues.pop(chunk.request_id)
                self._endings.append(monotonic())
            else:
                name, queue = self._queues[chunk.request_id]
            chunk.request_id = name
            queue.put_nowait(chunk)

    def end(self, finish_reason: str, error: str | None = None) -> None:
        """End all streams alike."""
        self.deliver([TokenChunk(request_id=i, finish_reason=finish_reason, error=error) for i in list(self._queues)])

    def drop(self) -> None:
        """Cancel all, where there is no event loop any more in which somebody could read them."""
        for request_id in list(self._queues):
            del self._queues[request_id]
            self._cancel(request_id)

    def _close(self, request_id: str) -> None:
        if request_id in self._queues:
            self.deliver([TokenChunk(request_id=request_id, finish_reason="abort")])
            self._cancel(request_id)

    def _retry_after(self) -> float:
        """Seconds in which one request has lately ended, on average."""
        if len(self._endings) < 2:
            return 1.0
        return max(1.0, (self._endings[-1] - self._endings[0]) / (len(self._endings) - 1))


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[str], None], argument: str) -> None:
    # A dropped stream may be collected in any thread, and after the loop has gone.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, argument)
