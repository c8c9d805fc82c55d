from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from tests.server.fake_llm import FakeLLM
from trivet.server.app import create_app
from trivet.server.launch import bind
from trivet.server.options import ServerOptions


@contextmanager
def running(app: Callable) -> Iterator[str]:
    """Serve an application from a thread; yields its URL."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def session() -> Iterator[tuple[str, FakeLLM]]:
    llm = FakeLLM()
    with running(create_app(llm)) as address:
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
    stack = []

    def start(llm: FakeLLM, **options: object) -> str:
        context = running(create_app(llm, ServerOptions(**options)))
        stack.append(context)
        return context.__enter__()

    yield start
    for context in stack:
        context.__exit__(None, None, None)
