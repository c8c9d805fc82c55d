"""A lean HTTP/1.1 client for event streams.

h11 parses. Lines are handed on, with the time they came, in the callback of the socket: no task is woken for a token,
which makes many streams cheap, and nothing lies between a token's arrival and its time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import h11
import msgspec

from trivet.errors import TrivetError

OnLine = Callable[[bytes, float], None]
"""Takes a line of a successful answer, without its end, and when it came (seconds of `time.perf_counter`)."""

MAX_ERROR_BYTES = 1 << 16
"""Of a refused request's answer, so many are kept to be quoted."""


class Failure(Exception):
    """A request that failed. `kind` is what failures are counted by; the text says what happened to this one."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class Connection(asyncio.Protocol):
    """Carries one exchange at a time."""

    def __init__(self) -> None:
        self.http = h11.Connection(h11.CLIENT)
        self.open = False
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = True

    async def exchange(self, request: h11.Request, body: bytes, on_line: OnLine) -> None:
        """Send a request and wait for the end of its answer. Raises Failure."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_line, self.rest, self.status, self.answered = on_line, b"", 0, False
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.http.send(part) or b"" for part in parts))
        try:
            await self.done
        finally:
            if self.open and self.http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                self.http.start_next_cycle()
            else:
                self.close()
        if self.status != 200:
            raise Failure(f"HTTP {self.status}", error_message(self.rest), self.status)

    def close(self) -> None:
        self.open = False
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._feed(data, time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if hasattr(self, "done") and not self.done.done():
            # Where neither a length nor chunks are declared, this is how an answer ends; h11 knows.
            self._feed(b"", time.perf_counter())
            self._end(Failure("disconnected", "the server closed the connection in the middle"))

    def _feed(self, data: bytes, now: float) -> None:
        try:
            self.http.receive_data(data)
            while (event := self.http.next_event()) is not h11.NEED_DATA:
                self.answered = True
                if isinstance(event, h11.Response):
                    self.status = event.status_code
                elif isinstance(event, h11.Data):
                    self._body(bytes(event.data), now)
                elif isinstance(event, h11.EndOfMessage):
                    if self.status == 200 and self.rest:
                        self.on_line(self.rest, now)
                    self._end()
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except h11.RemoteProtocolError as error:
            lost = not data
            self._end(
                Failure("disconnected", "the server closed the connection in the middle")
                if lost
                else Failure("malformed answer", f"not HTTP: {error}")
            )
        except Failure as error:
            self._end(error)

    def _body(self, data: bytes, now: float) -> None:
        self.rest += data
        if self.status != 200:
            self.rest = self.rest[:MAX_ERROR_BYTES]
            return
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            self.on_line(line, now)

    def _end(self, error: Failure | None = None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)


class Client:
    """Asks one server, over as many connections as there are requests at a time; idle ones are used again.

    url: the server's root, such as http://127.0.0.1:8080. timeout: seconds that a whole request may take.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600.0) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise TrivetError(f"--url must be like http://127.0.0.1:8080, got {url!r}")
        host = parts.netloc.rpartition("@")[2]
        self.prefix = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{host}{self.prefix}"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.headers = [("host", host), ("accept", "*/*"), ("user-agent", "trivet-bench")]
        if api_key is not None:
            self.headers.append(("authorization", f"Bearer {api_key}"))
        self.timeout = timeout
        self.idle: list[Connection] = []

    async def get(self, path: str) -> bytes:
        """The body at a path. Raises Failure."""
        lines: list[bytes] = []
        await self._ask("GET", path, b"", lambda line, _: lines.append(line))
        return b"\n".join(lines)

    async def stream(self, path: str, body: bytes, on_line: OnLine) -> None:
        """Post JSON; every line of the answer goes to `on_line`, which may raise Failure. Raises Failure."""
        await self._ask("POST", path, body, on_line)

    def close(self) -> None:
        while self.idle:
            self.idle.pop().close()

    async def _ask(self, method: str, path: str, body: bytes, on_line: OnLine) -> None:
        headers = [*self.headers, ("content-length", str(len(body)))]
        if body:
            headers.append(("content-type", "application/json"))
        try:
            request = h11.Request(method=method, target=self.prefix + path, headers=headers)
        except h11.LocalProtocolError as error:
            raise Failure("request", f"cannot be put in a request: {error}") from None
        try:
            async with asyncio.timeout(self.timeout):
                await self._exchange(request, body, on_line)
        except TimeoutError:
            raise Failure("timeout", f"not finished after {self.timeout:g} s") from None

    async def _exchange(self, request: h11.Request, body: bytes, on_line: OnLine) -> None:
        while True:
            idle = self._idle()
            connection = idle or await self._connect()
            try:
                return await connection.exchange(request, body, on_line)
            except Failure as failure:
                # Servers close connections that were idle for long, perhaps just as this request was sent.
                if not (idle and failure.kind == "disconnected" and not connection.answered):
                    raise
            finally:
                if connection.open:
                    self.idle.append(connection)

    def _idle(self) -> Connection | None:
        while self.idle:
            if (connection := self.idle.pop()).open:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self.host, self.port, ssl=self.tls)
        except (OSError, UnicodeError) as error:
            raise Failure("connection", f"cannot connect to {self.url}: {reason(error)}") from None
        return connection


def reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def error_message(body: bytes) -> str:
    """What an error's body says, in any of the shapes that servers have for it."""
    try:
        found: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return " ".join(body.decode(errors="replace").split())[:300] or "no message"
    return describe(found)


def describe(error: Any) -> str:
    while isinstance(error, dict) and (
        inner := next((error[k] for k in ("error", "message", "detail") if k in error), 0)
    ):
        error = inner
    return " ".join(str(error).split())[:300]
