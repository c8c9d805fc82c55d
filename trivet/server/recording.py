"""The events of a stream, kept for those who come to read them later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import count


class Recording:
    """Any number of readers follow it, from any event on, while it is made and after that.

    size: bytes of its events.
    """

    def __init__(self) -> None:
        self.size = 0
        self._events: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()

    def add(self, event: bytes) -> None:
        self._events.append(event)
        self.size += len(event)
        self._tell()

    def end(self) -> None:
        self._ended = True
        self._tell()

    async def follow(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield event number `start` and all that come after it, until the end."""
        for number in count(start):
            while number >= len(self._events):
                if self._ended:
                    return
                await self._news.wait()
            yield self._events[number]

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
