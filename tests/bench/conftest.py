from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.server.conftest import llm as llm
from tests.server.conftest import serve as serve
from tests.server.conftest import session as session
from tests.server.conftest import url as url

Script = list[bytes | float | None]
"""What a server does with a request: sends bytes, sleeps seconds, closes the connection."""

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class ScriptedServer:
    """Answers the i-th request with the i-th script (the last one again after that), byte for byte.

    `heads` holds what was received before each body, `bodies` the bodies, `connections` how many were opened.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.now = self.most = 0

    async def __aenter__(self) -> ScriptedServer:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")
                )
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                self.now += 1
                self.most = max(self.most, self.now)
                script = self.scripts[min(len(self.heads), len(self.scripts)) - 1]
                # The client may send its next request as soon as it has the last bytes.
                *rest, last = script
                for step in rest:
                    await self.do(writer, step)
                self.now -= 1
                await self.do(writer, last)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def do(self, writer: asyncio.StreamWriter, step: bytes | float | None) -> None:
        if step is None:
            writer.close()
            raise ConnectionResetError
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        else:
            await asyncio.sleep(step)


@pytest.fixture
def scripted() -> Callable[..., ScriptedServer]:
    return ScriptedServer
