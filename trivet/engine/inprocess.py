"""An engine in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trivet.engine.config import EngineConfig
from trivet.engine.engine import LOAD_RUNTIME, Engine, RuntimeLoader
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo
from trivet.engine.streams import Streams, TokenStream
from trivet.errors import EngineError

logger = logging.getLogger(__name__)


class InProcessClient:
    """An `EngineClient` whose engine thread sleeps while there is nothing to do."""

    info: ModelInfo

    def __init__(self, config: EngineConfig, load: RuntimeLoader | str = LOAD_RUNTIME) -> None:
        self._config = config
        self._load = load
        self._streams = Streams(config.max_num_seqs + config.max_queue, self._send)
        self._changed = threading.Condition()
        self._inbox: list[EngineRequest | str] = []
        """Requests to add and ids to cancel; like `_closing`, under the lock of `_changed`."""
        self._closing = False
        self._engine: Engine | None = None
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="trivet-engine", daemon=True)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Engine] = self._loop.create_future()
        self._thread.start()
        self._engine = await self._loaded
        self.info = self._engine.info

    def submit(self, request: EngineRequest) -> TokenStream:
        if not self.healthy():
            raise EngineError("the engine is not running")
        self.info.check(request)
        stream, own = self._streams.open(request)
        self._send(own)
        return stream

    def stats(self) -> EngineStats:
        return EngineStats() if self._engine is None else self._engine.stats()

    def healthy(self) -> bool:
        return self._engine is not None and self._thread.is_alive() and not self._closing

    async def close(self) -> None:
        if self._thread.ident is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        # Not `to_thread(join)`: an interpreter that is exiting has no executors any more.
        await self._ended.wait()
        self._thread.join()
        self._streams.end("abort")

    def _send(self, message: EngineRequest | str) -> None:
        with self._changed:
            self._inbox.append(message)
            self._changed.notify()

    def _post(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something in the event loop; a loop that has gone takes nothing any more."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _serve(self) -> None:
        try:
            self._run()
        finally:
            self._post(self._ended.set)

    def _run(self) -> None:
        try:
            engine = Engine(self._config, self._load)
        except Exception as error:
            self._post(_resolve, self._loaded, None, error)
            return
        self._post(_resolve, self._loaded, engine, None)
        try:
            while self._receive(engine):
                chunks = engine.step()
                if chunks:
                    self._post(self._streams.deliver, chunks)
        except Exception as error:
            logger.exception("the engine stopped")
            self._post(self._streams.end, "error", f"the engine stopped: {error}")
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
            else:
                engine.add(message)
        return not self._closing


def _resolve(future: asyncio.Future[Engine], engine: Engine | None, error: Exception | None) -> None:
    if future.cancelled():
        return
    if engine is not None:
        future.set_result(engine)
    elif error is not None:
        future.set_exception(error)
