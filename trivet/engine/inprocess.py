"""An engine in a thread of this process."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from trivet.engine.config import EngineConfig
from trivet.engine.engine import LOAD_RUNTIME, Engine, RuntimeLoader
from trivet.engine.messages import Command, StoreCommand, Stored
from trivet.engine.replies import Replies
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo
from trivet.engine.streams import Streams, TokenStream
from trivet.errors import EngineError

logger = logging.getLogger(__name__)


class InProcessClient:
    """An `EngineClient` whose engine thread sleeps while there is nothing to do.

    Unlike others, it may be started and closed in any event loop, and serves the one that submits: when none of its
    streams is open, that may be another one than before.
    """

    info: ModelInfo

    def __init__(self, config: EngineConfig, load: RuntimeLoader | str = LOAD_RUNTIME) -> None:
        self._config = config
        self._load = load
        self._streams = Streams(config, self._send)
        self._changed = threading.Condition()
        self._replies = Replies()
        self._inbox: list[Command] = []
        """Like `_closing`, under the lock of `_changed`."""
        self._closing = False
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loaded: Future[Engine] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="trivet-engine", daemon=True)

    async def start(self) -> None:
        # A thread that an exiting interpreter tears from its step takes the process down with it.
        atexit.register(self._stop)
        self._thread.start()
        loaded = asyncio.wrap_future(self._loaded)
        # Of a start that is cancelled, nobody asks any more why the engine could not be loaded.
        loaded.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._engine = await asyncio.shield(loaded)
        self.info = self._engine.info

    def check_room(self) -> None:
        self._streams.check_room()

    def submit(self, request: EngineRequest) -> TokenStream:
        if not self.healthy():
            raise EngineError("the engine is not running")
        self.info.check(request)
        self._serve_loop(asyncio.get_running_loop())
        stream, own = self._streams.open(request)
        self._send(own)
        return stream

    async def store(self, command: StoreCommand) -> Stored:
        if not self.healthy():
            raise EngineError("the engine is not running")
        self._serve_loop(asyncio.get_running_loop())
        reply = self._replies.expect(command)
        self._send(command)
        return await reply

    def stats(self) -> EngineStats:
        return EngineStats() if self._engine is None else self._engine.stats()

    def healthy(self) -> bool:
        return self._engine is not None and self._thread.is_alive() and not self._closing

    async def close(self) -> None:
        if self._thread.ident is None:
            return
        self._ask_to_end()
        # Not `to_thread(join)`: an interpreter that is exiting has no executors any more.
        await asyncio.shield(asyncio.wrap_future(self._ended))
        self._stop()
        atexit.unregister(self._stop)
        if self._loop is asyncio.get_running_loop():
            self._end_all("abort")
        else:
            self._post(self._end_all, "abort")

    def _end_all(self, finish_reason: str, error: str | None = None) -> None:
        self._streams.end(finish_reason, error)
        self._replies.fail(error or "the engine was stopped")

    def _stop(self) -> None:
        self._ask_to_end()
        self._thread.join()

    def _ask_to_end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _send(self, message: Command) -> None:
        with self._changed:
            self._inbox.append(message)
            self._changed.notify()

    def _serve_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this event loop from now on. Raises EngineError while another one reads streams."""
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_closed():
            self._streams.drop()
        if self._streams:
            raise EngineError("this engine has open streams in another event loop; it serves one at a time")
        self._loop = loop

    def _post(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something in the event loop; a loop that has gone takes nothing any more."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback, *args)

    def _serve(self) -> None:
        try:
            self._run()
        finally:
            self._ended.set_result(None)

    def _run(self) -> None:
        try:
            engine = Engine(self._config, self._load)
        except Exception as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(engine)
        try:
            while self._receive(engine):
                chunks = engine.step()
                if chunks:
                    self._post(self._streams.deliver, chunks)
        except Exception as error:
            logger.exception("the engine stopped")
            self._post(self._end_all, "error", f"the engine stopped: {error}")
        finally:
            engine.close()

    def _receive(self, engine: Engine) -> bool:
        """Take in what has come, waiting for it if the engine is idle; False when it is time to close."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._closing or engine.busy)
            inbox, self._inbox = self._inbox, []
        for message in inbox:
            if isinstance(message, str):
                engine.cancel(message)
            elif isinstance(message, StoreCommand):
                self._post(self._replies.deliver, engine.store(message))
            else:
                engine.add(message)
        return not self._closing
