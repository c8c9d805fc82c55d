"""Run the application: an address, an engine, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from trivet.errors import TrivetError
from trivet.server.app import create_app
from trivet.server.options import ServerOptions

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than the minute that proxies keep theirs."""


class AddressError(TrivetError):
    """The address to serve at cannot be had."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before anything slow is done; nothing is accepted yet. Raises AddressError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Only for sockets that name their protocol does asyncio turn Nagle's algorithm off: 40 ms an answer.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressError(f"port {port} on {host} is in use; choose another with --port") from None
        raise AddressError(f"cannot serve at {host} port {port}: {error.strerror}") from None
    return listener


async def run(
    llm: AsyncLLM,
    options: ServerOptions,
    listener: socket.socket,
    on_ready: Callable[[], None],
    shutdown_timeout: float,
) -> None:
    """Load the model and serve it until SIGINT or SIGTERM; then finish what is running, for at most so many seconds.

    A second signal does not wait. Raises ModelError, EngineError, and KeyboardInterrupt for a signal while loading.
    """
    loop = asyncio.get_running_loop()
    loading = asyncio.ensure_future(llm.start())
    server: _Server | None = None

    def stop() -> None:
        if server is None:
            loading.cancel()
        elif server.should_exit:
            for task in server.server_state.tasks:
                task.cancel()
        else:
            server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        try:
            await loading
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        config = uvicorn.Config(
            create_app(llm, options),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(shutdown_timeout)),
        )
        server = _Server(config, on_ready)
        await server.serve(sockets=[listener])
    finally:
        await llm.close()


class _Server(uvicorn.Server):
    """Says when it accepts connections, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
