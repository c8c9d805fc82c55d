"""HTTP on a connection, with a limit to how long a client may take to say what it wants."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_HEAD = 64 * 2**10
"""Bytes of a request's head; the parser has no limit of its own."""
TOO_LONG = f"the head of a request, its path and headers, may have {MAX_HEAD:,} bytes\n".encode()
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(TOO_LONG), TOO_LONG)
)
SLOWEST = 1000
"""Bytes a second that a request must bring which has not come at once."""


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, which waits for ever for the head and the body of a request.

    A request must be there within `read_timeout` seconds, or else bring SLOWEST bytes for each second of them, and
    again so until it is there: a long one may come over a slow line, but none by drops. A connection on which nothing
    comes ends likewise, and one that still sends what has already been answered.
    """

    def __init__(self, read_timeout: float, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout = read_timeout
        self._received = 0
        """Bytes since the timer was started."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs while a request is to come, or the rest of it."""
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received += len(data)
        before = self.cycle
        in_head = before is None or not before.more_body
        super().data_received(data)
        if in_head and self.cycle is before:
            if self._timer is None:
                self._start(len(data))
            if self._received > MAX_HEAD:
                self._refuse()
        elif not self.cycle.more_body:
            self._stop()
        elif self._timer is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _refuse(self) -> None:
        """What still comes is dropped until the client has read that, or its time is over: a connection that is closed
        with something unread takes the answer along.
        """
        if (self.cycle is not None and not self.cycle.response_complete) or not self.transport.can_write_eof():
            self.transport.abort()
            return
        self._refused = True
        self.transport.write(REFUSAL)
        self.transport.write_eof()

    def _start(self, received: int = 0) -> None:
        self._received = received
        self._timer = self.loop.call_later(self._read_timeout, self._check)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        answered = self.cycle is not None and self.cycle.response_complete
        if self.cycle is not None and not answered and not self.cycle.more_body:
            self._timer = None  # A request is being answered; what came since is at most the beginning of the next.
        elif answered or self._refused or self._received < SLOWEST * self._read_timeout:
            self.transport.abort()
        else:
            self._start()
