from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.server.fake_llm import FakeLLM
from trivet.api.async_llm import AsyncLLM
from trivet.server.app import create_app
from trivet.server.launch import Server, bind
from trivet.server.options import ListenOptions, ServerOptions


@contextmanager
def running(llm: AsyncLLM, options: ServerOptions | None = None, listen: ListenOptions | None = None) -> Iterator[str]:
    """Start an engine and serve it, all in a thread; yields the URL."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    servers: list[Server] = []
    started = threading.Event()

    async def serve() -> None:
        try:
            await llm.start()
            servers.append(Server(create_app(llm, options), listen or ListenOptions(), lambda: None))
        finally:
            started.set()
        await servers[0].serve([listener])
        await llm.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        servers[0].should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def session() -> Iterator[tuple[str, FakeLLM]]:
    llm = FakeLLM()
    with running(llm) as address:
        yield address, llm


@pytest.fixture
def llm(session: tuple[str, FakeLLM]) -> FakeLLM:
    """The fake engine behind `url`; its `requests` are this test's."""
    session[1].requests.clear()
    return session[1]


@pytest.fixture
def url(session: tuple[str, FakeLLM], llm: FakeLLM) -> str:
    """A server over a fake engine that works."""
    return session[0]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start servers of one's own: serve(llm, option=…) -> URL."""
    with ExitStack() as stack:
        yield lambda llm, **options: stack.enter_context(running(llm, ServerOptions(**options)))


@pytest.fixture(scope="session")
def tgi_session() -> Iterator[tuple[str, FakeLLM]]:
    llm = FakeLLM()
    with running(llm, ServerOptions(dialect="tgi")) as address:
        yield address, llm


@pytest.fixture
def tgi_llm(tgi_session: tuple[str, FakeLLM]) -> FakeLLM:
    """The fake engine behind `tgi`; its `requests` are this test's."""
    tgi_session[1].requests.clear()
    return tgi_session[1]


@pytest.fixture
def tgi(tgi_session: tuple[str, FakeLLM], tgi_llm: FakeLLM) -> str:
    """A server pinned to TGI's dialect."""
    return tgi_session[0]
