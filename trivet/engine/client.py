"""How the API talks to an engine, wherever that engine runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk


class EngineClient(Protocol):
    """Implementations: `InProcessClient` (a thread of this process), `ProcessClient` (a supervised child).

    All methods belong to the event loop that ran `start`.
    """

    info: ModelInfo

    async def start(self) -> None:
        """Load the model and set `info`. Raises ModelError or EngineError, as the engine does."""
        ...

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request and stream its chunks.

        Raises at once: OverloadedError when the queue is full, RequestError when the request can never run
        here.
        """
        ...

    def stats(self) -> EngineStats: ...

    def healthy(self) -> bool:
        """Whether the engine is there and making progress."""
        ...

    async def close(self) -> None:
        """Stop the engine; open streams end with the finish reason "abort"."""
        ...


class TokenStream(AsyncIterator[TokenChunk]):
    """The chunks of one request, ending after the one with a finish reason.

    Closing it before that, or dropping it, cancels the request.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._chunks: deque[TokenChunk] = deque()
        self._arrived = asyncio.Event()
        self._cancel: Callable[[], None] | None = cancel

    def push(self, chunk: TokenChunk) -> None:
        """Hand over a chunk; the one with a finish reason is the last."""
        self._chunks.append(chunk)
        if chunk.finish_reason is not None:
            self._cancel = None
        self._arrived.set()

    async def __anext__(self) -> TokenChunk:
        while not self._chunks:
            if self._cancel is None:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._chunks.popleft()

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()
        self._chunks.clear()
        self._arrived.set()

    def __del__(self) -> None:
        self._close()
