"""How the API talks to an engine, wherever that engine runs."""

from __future__ import annotations

from typing import Protocol

from trivet.engine.messages import StoreCommand, Stored
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo
from trivet.engine.streams import TokenStream


class EngineClient(Protocol):
    """Implementations: `InProcessClient` (a thread of this process), `ProcessClient` (a supervised child).

    All methods belong to the event loop that ran `start`.
    """

    info: ModelInfo

    async def start(self) -> None:
        """Load the model and set `info`. Raises ModelError or EngineError, as the engine does."""
        ...

    def check_room(self) -> None:
        """Raises OverloadedError where `submit` would for any request: so that no work is done for it."""
        ...

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request and stream its chunks.

        Raises at once: OverloadedError when too many requests or tokens wait, RequestError when the request can never
        run here.
        """
        ...

    async def store(self, command: StoreCommand) -> Stored:
        """Save, load or drop cached blocks, between two steps. Raises RequestError, or EngineError."""
        ...

    def stats(self) -> EngineStats: ...

    def healthy(self) -> bool:
        """Whether the engine is there and making progress."""
        ...

    async def close(self) -> None:
        """Stop the engine; open streams end with the finish reason "abort"."""
        ...
