import asyncio
import socket

import pytest

from tests.bench.conftest import END, SSE, ScriptedServer, chunk
from trivet.bench.client import Client, Failure, error_message
from trivet.errors import TrivetError

LINES = [b'data: {"a": 1}', b"", "data: caf\u00e9\u2028".encode(), b"", b"data: [DONE]", b""]
BODY = b"\n".join([*LINES, b""])
OK = [SSE, chunk(BODY), END]


async def ask(client, lines=None):
    found = [] if lines is None else lines
    await client.stream("/x", b'{"a":1}', lambda line, now: found.append(line))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_lines_are_whole_however_they_are_cut(size):
    pieces = [BODY[i : i + size] for i in range(0, len(BODY), size)]
    for script in (
        [SSE, *[chunk(piece) for piece in pieces], END],
        [SSE, b"".join(chunk(piece) for piece in pieces) + END],
        [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY), *pieces],
        [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", *pieces, None],
    ):
        async with ScriptedServer(script) as server:
            assert await ask(Client(server.url)) == LINES


async def test_a_last_line_without_an_end_counts():
    async with ScriptedServer([SSE, chunk(b"one\ntwo"), END]) as server:
        assert await ask(Client(server.url)) == [b"one", b"two"]


async def test_what_is_sent():
    async with ScriptedServer(OK) as server:
        await ask(Client(server.url + "/base/", api_key="k"))
        [head], [body] = server.heads, server.bodies
        assert head.startswith("POST /base/x HTTP/1.1\r\n")
        assert "authorization: Bearer k\r\n" in head.lower().replace("bearer", "Bearer")
        assert "content-type: application/json\r\n" in head
        assert body == b'{"a":1}'


async def test_a_line_has_the_time_it_came():
    script = [SSE, chunk(b"a\n"), 0.05, chunk(b"b\n") + chunk(b"c\n"), END]
    async with ScriptedServer(script) as server:
        times = []
        await Client(server.url).stream("/x", b"", lambda line, now: times.append(now))
    a, b, c = times
    assert 0.045 < b - a < 0.5
    assert b == c


async def test_connections_are_used_again_and_no_more_than_needed():
    async with ScriptedServer(OK) as server:
        client = Client(server.url)
        for _ in range(3):
            assert await ask(client) == LINES
        assert server.connections == 1
        await asyncio.gather(*[ask(client) for _ in range(4)])
        assert server.connections == 4
        client.close()


async def test_a_connection_that_was_closed_while_idle_is_replaced():
    async with ScriptedServer(OK, [None], OK) as server:
        client = Client(server.url)
        await ask(client)
        assert await ask(client) == LINES
        assert (server.connections, len(server.heads)) == (2, 3)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ([None], "disconnected", "in the middle"),
        ([SSE, chunk(b"a\n"), None], "disconnected", "in the middle"),
        ([SSE, chunk(b"a\n")[:-3], None], "disconnected", "in the middle"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "malformed answer", "not HTTP"),
        ([SSE, b"zz\r\n"], "malformed answer", "not HTTP"),
        ([SSE, 5.0], "timeout", "not finished after 0.3 s"),
        (
            [b'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 31\r\n\r\n{"error": {"message": "later"}}'],
            "HTTP 429",
            "^later$",
        ),
        ([b"HTTP/1.1 307 Moved\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n"], "HTTP 307", "no message"),
    ],
)
async def test_failures_say_what_happened(script, kind, message):
    async with ScriptedServer(script, OK) as server:
        client = Client(server.url, timeout=0.3)
        with pytest.raises(Failure, match=message) as failure:
            await ask(client)
        assert failure.value.kind == kind
        assert await ask(client) == LINES
        client.close()


async def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Failure, match=r"cannot connect to http://127.0.0.1:\d+: ") as failure:
            await ask(Client(f"127.0.0.1:{unused.getsockname()[1]}"))
    assert failure.value.kind == "connection"


async def test_what_a_reader_raises_ends_the_request():
    def refuse(line, now):
        raise Failure("mine", "no")

    async with ScriptedServer([SSE, chunk(b"a\nb\n"), 5.0], OK) as server:
        client = Client(server.url)
        with pytest.raises(Failure, match="no"):
            await client.stream("/x", b"", refuse)
        assert await ask(client) == LINES
        client.close()


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x:99999", "http://x:y", "http://[::1"])
def test_urls_that_are_none(url):
    with pytest.raises(TrivetError, match="--url must be like"):
        Client(url)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m", "code": 1}}', "m"),
        (b'{"error": "m", "error_type": "validation"}', "m"),
        (b'{"object": "error", "message": "m"}', "m"),
        (b'{"detail": "m"}', "m"),
        (b'{"other": 1}', "{'other': 1}"),
        (b"<p>\nm</p>", "<p> m</p>"),
        (b"", "no message"),
        (b"\xff", "\ufffd"),
    ],
)
def test_messages_of_errors(body, message):
    assert error_message(body) == message
