"""The streams a client has open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import monotonic

import msgspec

from trivet.engine.config import EngineConfig
from trivet.engine.request import EngineRequest, TokenChunk
from trivet.errors import OverloadedError


class TokenStream(AsyncIterator[TokenChunk]):
    """The chunks of one request, ending after the one with a finish reason.

    Closing it before that, or dropping it, cancels the request. The client keeps the queue, never the stream.

    Tokens that have piled up while the reader was busy come as one chunk, so that it has less to do for each when it
    has fallen behind; an error comes alone.
    """

    def __init__(self, queue: asyncio.Queue[TokenChunk], cancel: Callable[[], None]) -> None:
        self._queue = queue
        self._cancel: Callable[[], None] | None = cancel
        self._error: TokenChunk | None = None

    async def __anext__(self) -> TokenChunk:
        if self._cancel is None:
            raise StopAsyncIteration
        chunk = self._error or await self._queue.get()
        while chunk.tokens and chunk.finish_reason is None and not self._queue.empty():
            following = self._queue.get_nowait()
            if following.error is not None:
                self._error = following
                break
            chunk.join(following)
        if chunk.finish_reason is not None:
            self._cancel = None
        return chunk

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()

    def __del__(self) -> None:
        self._close()


@dataclass(slots=True, eq=False)
class _Open:
    """An open stream: the caller's id, where its chunks go, and the tokens that wait until the first of them."""

    name: str
    queue: asyncio.Queue[TokenChunk]
    queued_tokens: int


class Streams:
    """Leads chunks to the streams of a client; `cancel` gets the id of a stream closed early.

    Requests get ids of their own here, so that callers may use theirs again and again: a chunk of a cancelled request
    may still be on its way when the next of the same name comes.
    """

    def __init__(self, config: EngineConfig, cancel: Callable[[str], None]) -> None:
        self._limit = config.max_num_seqs + config.max_queue
        self._token_limit = config.max_queued_tokens
        self._cancel = cancel
        self._ids = count()
        self._open: dict[str, _Open] = {}
        """By our id."""
        self._queued_tokens = 0
        self._group: str | None = None
        """Of the latest request. Those of a group come in a row, and wait with one prompt."""
        self._endings: deque[float] = deque(maxlen=32)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def check_room(self, tokens: int = 1) -> None:
        """Raises OverloadedError where there is no room for another request with so many tokens that are to wait."""
        queued = self._queued_tokens
        if len(self._open) >= self._limit:
            reason = f"{len(self._open)} requests run or wait"
        elif queued and tokens and self._token_limit is not None and queued + tokens > self._token_limit:
            reason = f"prompts of {queued} tokens wait (this one has {tokens})"
        else:
            return
        raise OverloadedError(f"{reason}, the most this engine takes; try again later", self._retry_after())

    def open(self, request: EngineRequest) -> tuple[TokenStream, EngineRequest]:
        """Returns the stream and the request for the engine. Raises OverloadedError."""
        tokens = len(request.prompt) if request.group is None or request.group != self._group else 0
        self.check_room(tokens)
        self._group = request.group
        request_id = str(next(self._ids))
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._open[request_id] = _Open(request.request_id, queue, tokens)
        self._queued_tokens += tokens
        close = partial(_call_soon, asyncio.get_running_loop(), self._close, request_id)
        own = msgspec.structs.replace(request, request_id=request_id, generated=list(request.generated))
        return TokenStream(queue, close), own

    def deliver(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            opened = self._open.get(chunk.request_id)
            if opened is None:
                continue
            if chunk.finish_reason is not None:
                del self._open[chunk.request_id]
                self._endings.append(monotonic())
            self._queued_tokens -= opened.queued_tokens
            opened.queued_tokens = 0
            chunk.request_id = opened.name
            opened.queue.put_nowait(chunk)

    def end(self, finish_reason: str, error: str | None = None) -> None:
        """End all streams alike."""
        self.deliver([TokenChunk(request_id=i, finish_reason=finish_reason, error=error) for i in list(self._open)])

    def drop(self) -> None:
        """Cancel all, where there is no event loop any more in which somebody could read them."""
        for request_id in list(self._open):
            del self._open[request_id]
            self._cancel(request_id)
        self._queued_tokens = 0

    def _close(self, request_id: str) -> None:
        if request_id in self._open:
            self.deliver([TokenChunk(request_id=request_id, finish_reason="abort")])
            self._cancel(request_id)

    def _retry_after(self) -> float:
        """Seconds in which one request has lately ended, on average."""
        if len(self._endings) < 2:
            return 1.0
        return max(1.0, (self._endings[-1] - self._endings[0]) / (len(self._endings) - 1))


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[str], None], argument: str) -> None:
    # A dropped stream may be collected in any thread, and after the loop has gone.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, argument)
