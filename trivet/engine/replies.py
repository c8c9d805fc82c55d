"""What a client waits for that is not a stream."""

from __future__ import annotations

import asyncio
import itertools

from trivet.engine.messages import StoreCommand, Stored
from trivet.errors import EngineError, RequestError


class Replies:
    """Numbers the commands of a client, and leads each answer to who waits for it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Stored]] = {}

    def expect(self, command: StoreCommand) -> asyncio.Future[Stored]:
        """The answer to come; sets the command's number."""
        command.number = next(self._numbers)
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting[command.number] = future
        future.add_done_callback(lambda _: self._waiting.pop(command.number, None))
        return future

    def deliver(self, stored: Stored) -> None:
        future = self._waiting.get(stored.number)
        if future is None or future.done():
            return
        if stored.error is None:
            future.set_result(stored)
        else:
            future.set_exception(RequestError(stored.error))

    def fail(self, reason: str) -> None:
        """End all waiting."""
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(EngineError(reason))
