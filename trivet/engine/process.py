"""An engine in a child process that is watched, and started again when it fails."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from time import monotonic

import msgspec
import zmq.asyncio

from trivet.engine.child import Child, Died
from trivet.engine.config import EngineConfig
from trivet.engine.engine import LOAD_RUNTIME
from trivet.engine.messages import StoreCommand, Stored, Update, pack
from trivet.engine.replies import Replies
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk
from trivet.engine.steps import joined
from trivet.engine.streams import Streams, TokenStream
from trivet.errors import EngineError, TrivetError
from trivet.logs import LogOptions

logger = logging.getLogger(__name__)

DEATHS_APART = 2
DEATHS_APART_KILLED = 3
"""So many deaths, with nothing else that can have been the cause, make a request guilty. One more where they are
SIGKILL's, which comes from outside: from an operator, or where memory is short."""

PROOF_TOKENS = 3
"""A request that has brought so many tokens since the last crash is not what caused it."""

LAUNCHES = 8
"""How often in a row the process is started again when it dies before its model is loaded."""

BURST = 8
"""Steps of an engine that is ahead that are taken in at once, before the streams go on with what they brought."""

COUNTERS = (
    "steps",
    "sequence_steps",
    "prompt_tokens",
    "generated_tokens",
    "cached_tokens",
    "queried_tokens",
    "preemptions",
)


@dataclass(slots=True, eq=False)
class _Open:
    """An unfinished request. `request.generated` grows with every chunk, so that it can be submitted again."""

    request: EngineRequest
    inside: bool = False
    """Whether the child has it."""
    crashes: int = 0
    """How often the child died while it had this, without proof in between."""
    crashes_apart: int = 0
    """How often of these nothing else can have been the cause."""
    proof: int = 0
    """Tokens brought since the child was last given it."""


class ProcessClient:
    """An `EngineClient` whose streams outlive the engine's process.

    When the process dies or hangs, it is started again and the unfinished requests are resubmitted with the
    tokens they have. Those that were there at two deaths, and brought nothing in between, are suspects: the next
    process gets one of them at a time, and no other request, until it has shown that it is innocent, or the process
    has died again and again and it fails alone. (Not at once, as a process may be killed from outside just then.)
    """

    info: ModelInfo

    def __init__(self, config: EngineConfig, load: str = LOAD_RUNTIME, log: LogOptions | None = None) -> None:
        self._config = config
        self._load = load
        self._log = log or LogOptions()
        self._streams = Streams(config, self._cancel)
        self._context = zmq.asyncio.Context()
        self._directory = TemporaryDirectory(prefix="trivet-", ignore_cleanup_errors=True)
        self._child: Child | None = None
        self._launches = 0
        self._open: dict[str, _Open] = {}
        self._outbox: list[msgspec.Raw] = []
        self._replies = Replies()
        self._suspect: _Open | None = None
        self._progress = 0.0
        """When the child was last known to work, or to have nothing to do."""
        self._stats = EngineStats()
        self._earlier = EngineStats()
        """Counters of the processes before this one."""
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            await self._launch()
        except BaseException:
            await self.close()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    def check_room(self) -> None:
        self._streams.check_room()

    def submit(self, request: EngineRequest) -> TokenStream:
        if self._supervisor is None or self._supervisor.done():
            raise EngineError("the engine is not running")
        self.info.check(request)
        stream, own = self._streams.open(request)
        command = pack(own)
        if not self._open:
            self._progress = monotonic()
        self._open[own.request_id] = opened = _Open(own)
        if self._child is not None and self._suspect is None:
            self._give(opened, command)
        return stream

    async def store(self, command: StoreCommand) -> Stored:
        if self._child is None:
            raise EngineError("the engine is not running")
        reply = self._replies.expect(command)
        self._send(pack(command))
        return await reply

    def stats(self) -> EngineStats:
        counts = {name: getattr(self._stats, name) + getattr(self._earlier, name) for name in COUNTERS}
        histograms = joined(self._stats.histograms, self._earlier.histograms)
        return msgspec.structs.replace(self._stats, **counts, histograms=histograms)

    def healthy(self) -> bool:
        return self._child is not None and not (self._open and self._overdue() >= 0)

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        if self._child is not None:
            child, self._child = self._child, None
            await child.close()
        self._open.clear()
        self._streams.end("abort")
        self._replies.fail("the engine was stopped")
        self._context.destroy(linger=0)
        self._directory.cleanup()

    def _cancel(self, request_id: str) -> None:
        # Its last chunk may be here, and not delivered yet.
        opened = self._open.pop(request_id, None)
        if opened is None:
            return
        if opened.inside:
            self._send(pack(request_id))
        self._clear(opened)

    def _send(self, command: msgspec.Raw) -> None:
        """Put a command into the message of this turn of the event loop."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(command)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._child is not None:
            self._child.send(outbox)

    async def _launch(self) -> None:
        self._launches += 1
        child = Child(self._context, f"ipc://{self._directory.name}/{self._launches}")
        await child.start(self._config, self._load, self._log)
        self.info = child.info
        self._child = child
        self._progress = monotonic()

    async def _launch_again(self) -> None:
        """Raises what the engine raises, and EngineError when the process dies again and again while it loads."""
        for left in reversed(range(LAUNCHES)):
            try:
                await self._launch()
                break
            except Died as error:
                if left == 0:
                    raise
                logger.error("%s; starting it again", error)

    async def _supervise(self) -> None:
        try:
            while self._child is not None:
                child = self._child
                reason = await self._run(child)
                logger.error("the engine's process %s; starting it again", reason)
                self._replies.fail(f"the engine's process {reason}")
                self._blame(reason, child.killed)
                await child.close()
                await self._launch_again()
                self._admit()
        except Exception as error:
            logger.error("the engine is gone: %s", error, exc_info=not isinstance(error, TrivetError))
            broken, self._child = self._child, None
            if broken is not None:
                await broken.close()
            self._open.clear()
            self._streams.end("error", f"the engine's process failed and did not start again: {error}")

    async def _run(self, child: Child) -> str:
        """Take in what the child says until it dies or hangs; returns what happened."""
        ended = asyncio.ensure_future(child.ended())
        hung = asyncio.ensure_future(self._hung())
        reader = asyncio.ensure_future(self._read(child))
        try:
            await asyncio.wait({ended, hung, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            if not ended.done():
                self._child = None
                child.kill()
                await ended
                return hung.result()
            self._child = None
            reader.cancel()
            await asyncio.wait({reader})
            for report in await child.received():
                self._streams.deliver(self._take(report))
            return ended.result()
        finally:
            for task in (ended, hung, reader):
                task.cancel()

    async def _read(self, child: Child) -> None:
        while True:
            for _ in range(BURST):
                self._streams.deliver(self._take(await child.receive()))
            # What is there already is received without a pause, however much there is.
            await asyncio.sleep(0)

    async def _hung(self) -> str:
        while not (self._open and self._overdue() >= 0):
            await asyncio.sleep(self._config.step_timeout / 4)
        return f"made no progress for {self._config.step_timeout:g} seconds"

    def _overdue(self) -> float:
        """Seconds since the child should have shown progress."""
        return monotonic() - self._progress - self._config.step_timeout

    def _take(self, update: Update | Stored) -> list[TokenChunk]:
        """Returns the chunks that are to be delivered."""
        self._progress = monotonic()
        if isinstance(update, Stored):
            self._replies.deliver(update)
            return []
        self._stats = update.stats
        for chunk in update.chunks:
            opened = self._open.get(chunk.request_id)
            if opened is None:
                continue
            opened.request.generated += chunk.tokens
            if chunk.tokens:
                opened.request.sampler_state = chunk.sampler_state
            opened.proof += len(chunk.tokens)
            if chunk.finish_reason is not None:
                del self._open[chunk.request_id]
            if chunk.finish_reason is not None or opened.proof >= PROOF_TOKENS:
                self._clear(opened)
        return update.chunks

    def _clear(self, opened: _Open) -> None:
        """This one is not guilty; if it was the suspect, the next may be tried."""
        opened.crashes = opened.crashes_apart = 0
        if opened is self._suspect:
            self._suspect = None
            self._admit()

    def _admit(self) -> None:
        """Give the child what it does not have yet; if some of it are suspects, only one of these."""
        if self._child is None or self._suspect is not None:
            return
        absent = [opened for opened in self._open.values() if not opened.inside]
        self._suspect = next((opened for opened in absent if opened.crashes > 1), None)
        for opened in absent if self._suspect is None else [self._suspect]:
            self._give(opened, pack(opened.request))

    def _give(self, opened: _Open, command: msgspec.Raw) -> None:
        opened.inside = True
        opened.proof = 0
        self._send(command)

    def _blame(self, reason: str, killed: bool) -> None:
        """The child has died: what it had is to be submitted again, but for a suspect that is guilty."""
        self._earlier = self.stats()
        self._stats = EngineStats(blocks_total=self._stats.blocks_total)
        inside = [opened for opened in self._open.values() if opened.inside]
        suspects = inside if self._suspect is None else [self._suspect]
        self._suspect = None
        for opened in inside:
            opened.inside = False
        for opened in suspects:
            opened.crashes += 1
        if len(suspects) != 1:
            return
        # To the end, so that what kills from outside does not meet the same one again and again.
        request_id = suspects[0].request.request_id
        opened = self._open.pop(request_id)
        opened.crashes_apart += 1
        if opened.crashes_apart < (DEATHS_APART_KILLED if killed else DEATHS_APART):
            self._open[request_id] = opened
            return
        error = f"the engine's process {reason} whenever it had this request"
        self._streams.deliver([TokenChunk(request_id=request_id, finish_reason="error", error=error)])
