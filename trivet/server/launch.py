"""Run the application: an address, an engine, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from trivet.errors import TrivetError
from trivet.server.options import ListenOptions, ServerOptions
from trivet.server.protocol import Protocol

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from trivet.api.async_llm import AsyncLLM
    from trivet.server.service import Service

logger = logging.getLogger(__name__)


class AddressError(TrivetError):
    """The address to serve at cannot be had."""


@contextmanager
def listening(options: ListenOptions) -> Iterator[tuple[list[socket.socket], list[str]]]:
    """Take the addresses, before anything slow is done; nothing is accepted yet. Yields sockets and URLs.

    Raises AddressError.
    """
    with ExitStack() as stack:
        listeners, urls = [], []
        for host in [options.uds] if options.uds else options.hosts:
            if options.uds or host.endswith(".sock"):
                listener = bind_unix(host)
                stack.callback(Path(host).unlink, missing_ok=True)
                urls.append(f"unix:{host}{options.api_prefix}")
            else:
                listener = bind(host, options.port, options.reuse_port)
                shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
                scheme = "https" if options.ssl_certfile else "http"
                urls.append(f"{scheme}://{shown}:{listener.getsockname()[1]}{options.api_prefix}")
            listeners.append(stack.enter_context(listener))
        yield listeners, urls


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """Take an address. Raises AddressError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Only for sockets that name their protocol does asyncio turn Nagle's algorithm off: 40 ms an answer.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressError(f"port {port} on {host} is in use; choose another with --port") from None
        raise AddressError(f"cannot serve at {host} port {port}: {error.strerror}") from None
    return listener


def bind_unix(path: str) -> socket.socket:
    """Take the path of a unix socket; one that nobody listens at any more is replaced. Raises AddressError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _left_behind(path):
            Path(path).unlink()
        listener.bind(path)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressError(f"{path} is in use") from None
        raise AddressError(f"cannot serve at {path}: {error.strerror or error}") from None
    return listener


def _left_behind(path: str) -> bool:
    """Whether a path is a socket of a server that is gone."""
    if not Path(path).exists() or not stat.S_ISSOCK(Path(path).stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def check_certificate(options: ListenOptions) -> None:
    """Raises AddressError when HTTPS is wanted and its files are not right."""
    if options.ssl_certfile is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        password = options.ssl_keyfile_password or ""
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, lambda: password)
        if options.ssl_ca_certs:
            context.load_verify_locations(options.ssl_ca_certs)
        context.set_ciphers(options.ssl_ciphers)
    except OSError as error:
        files = [name for name in (options.ssl_certfile, options.ssl_keyfile, options.ssl_ca_certs) if name]
        raise AddressError(f"cannot serve HTTPS with {', '.join(files)}: {error.strerror or error}") from None


async def run(
    llm: AsyncLLM,
    options: ServerOptions,
    listen: ListenOptions,
    listeners: Sequence[socket.socket],
    on_ready: Callable[[], None],
) -> None:
    """Load the model and serve it until SIGINT or SIGTERM; then finish what is running, within `shutdown_timeout`,
    and refuse what comes meanwhile. A second signal does not wait.

    Raises ModelError, EngineError, and KeyboardInterrupt for a signal while loading.
    """
    loop = asyncio.get_running_loop()
    loading = asyncio.ensure_future(llm.start())
    server: Server | None = None

    def stop() -> None:
        if server is None:
            loading.cancel()
        else:
            server.drain(listen.shutdown_timeout)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        # The dialects are imported while the engine's process imports and loads what it needs.
        await asyncio.sleep(0.01)
        from trivet.server.app import create_app

        try:
            await loading
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        if options.max_input_tokens is not None and options.max_input_tokens >= llm.info.max_model_len:
            logger.warning(
                "prompts may have %d tokens, not %d: the context is %d",
                *(llm.info.max_model_len - 1, options.max_input_tokens, llm.info.max_model_len),
            )
        allow_connections()
        server = Server(create_app(llm, options), listen, on_ready)
        gc.freeze()  # What is loaded stays: the collector would stop all streams to look at it.
        await server.serve(sockets=list(listeners))
    finally:
        await llm.close()


def allow_connections() -> None:
    """Let the process have as many open files, and so connections, as the system permits it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prefixed(app: Starlette, prefix: str) -> Starlette:
    """The application under a path."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    if not prefix:
        return app

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with app.router.lifespan_context(app):
            yield

    return Starlette(routes=[Mount(prefix, app)], lifespan=lifespan)


class Server(uvicorn.Server):
    """Serves what `create_app` made. Says when it accepts connections, leaves signals alone and can be drained."""

    def __init__(self, app: Starlette, listen: ListenOptions, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            _prefixed(app, listen.api_prefix),
            http=cast(Any, partial(Protocol, listen.read_timeout)),
            log_config=None,
            access_log=False,
            server_header=False,
            root_path=listen.root_path,
            timeout_keep_alive=listen.keep_alive,
            timeout_graceful_shutdown=1,
            ssl_certfile=listen.ssl_certfile,
            ssl_keyfile=listen.ssl_keyfile,
            ssl_keyfile_password=listen.ssl_keyfile_password,
            ssl_ca_certs=listen.ssl_ca_certs,
            ssl_cert_reqs=listen.ssl_cert_reqs,
            ssl_ciphers=listen.ssl_ciphers,
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._on_ready = on_ready
        self._draining: asyncio.Task[None] | None = None

    def drain(self, timeout: float) -> None:
        """Take nothing new, and end when what runs has finished; it is cut off after `timeout` seconds, or by a second
        call.
        """
        if self._draining is not None:
            self._draining.cancel()
            return
        self._service.draining = True
        self._draining = asyncio.create_task(self._drain(timeout))

    async def _drain(self, timeout: float) -> None:
        tasks = self.server_state.tasks
        try:
            async with asyncio.timeout(timeout):
                while tasks:
                    await asyncio.wait(tasks)
        except (TimeoutError, asyncio.CancelledError):
            for task in tasks:
                task.cancel()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
