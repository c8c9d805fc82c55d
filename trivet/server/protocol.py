"""HTTP on a connection, with a limit to how long a client may take to say what it wants."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

SLOWEST = 1000
"""Bytes a second at which a request may come, once its time has passed."""


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, which waits for ever for the head and the body of a request.

    A request must be there within `read_timeout` seconds, and a second more for each SLOWEST bytes of it, so that a
    long one may come over a slow line, but none by drops. A connection on which nothing comes ends likewise.
    """

    def __init__(self, read_timeout: float, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout = read_timeout
        self._began: float | None = None
        """When the request began of which the rest is to come."""
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._began = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._began is None:
            self._began, self._size = self.loop.time(), 0
        self._size += len(data)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.more_body:
            self._forget()
        elif self._timer is None:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        self._began = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Close the connection if it is time to, or look again when it may be."""
        assert self._began is not None
        deadline = self._began + self._read_timeout + self._size / SLOWEST
        if self.loop.time() >= deadline:
            self.transport.abort()
        else:
            self._timer = self.loop.call_at(deadline, self._watch)
