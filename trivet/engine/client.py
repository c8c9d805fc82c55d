"""How the API talks to an engine, wherever that engine runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk


class EngineClient(Protocol):
    """Implementations: `InProcessClient` (a thread of this process) and `ProcessClient` (a supervised child)."""

    info: ModelInfo

    async def start(self) -> None:
        """Load the model; returns when `info` is set. Raises ModelError or EngineError, as the engine does."""
        ...

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """Queue a request and stream its chunks; closing the iterator early cancels it.

        Raises OverloadedError at once when the queue is full, and RequestError when it can never fit the cache.
        """
        ...

    def stats(self) -> EngineStats: ...

    def healthy(self) -> bool: ...

    async def close(self) -> None: ...
