"""Putting load on a server: requests sent when they are due, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from trivet.bench.client import Client, Failure
from trivet.bench.dialects import Dialect, Options


@dataclass(frozen=True)
class Request:
    """due: seconds after the start of the run before which it is not sent."""

    prompt: str
    input_len: int
    output_len: int
    due: float = 0.0


@dataclass
class Record:
    """What became of a request. Times are in seconds of `time.perf_counter`.

    times: of every event that brought tokens, in order. prompt_tokens, output_tokens: as the server counts them;
    where it does not, what was asked for, and the number of events.
    """

    start: float
    times: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    failure: Failure | None = None

    @property
    def ttft(self) -> float:
        return self.times[0] - self.start

    @property
    def latency(self) -> float:
        return self.times[-1] - self.start

    @property
    def gaps(self) -> list[float]:
        return [later - time for time, later in zip(self.times, self.times[1:], strict=False)]

    @property
    def tpot(self) -> float:
        """Seconds for each token after the first; 0 where there is none."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(frozen=True)
class Target:
    """A server, and how it is asked."""

    client: Client
    dialect: Dialect
    options: Options

    async def ask(self, request: Request) -> Record:
        """Send a request and read its stream. Never raises Failure: the record has it."""
        body = msgspec.json.encode(self.dialect.body(request.prompt, request.output_len, self.options))
        read = self.dialect.read
        reported: dict[str, int] = {}
        record = Record(time.perf_counter())
        times = record.times

        def on_line(line: bytes, now: float) -> None:
            if not line.startswith(b"data:"):
                return
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            token, prompt_tokens, output_tokens = read(data)
            if token:
                times.append(now)
            if prompt_tokens is not None:
                reported["prompt"] = prompt_tokens
            if output_tokens is not None:
                reported["output"] = output_tokens

        try:
            await self.client.stream(self.dialect.path, body, on_line)
            if not times:
                raise Failure("empty answer", "the stream ended without a token")
        except Failure as failure:
            record.failure = failure
        record.prompt_tokens = reported.get("prompt", request.input_len)
        record.output_tokens = reported.get("output") or len(times)
        return record


async def run(
    target: Target,
    requests: Iterable[Request],
    *,
    concurrency: int | None = None,
    duration: float | None = None,
    done: Callable[[Record], None] = lambda _: None,
) -> tuple[list[Record], float]:
    """Send every request when it is due, in order, and wait for all answers.

    concurrency: no more at a time; what is due waits, and its time begins when it is sent. duration: after so many
    seconds nothing more is sent. Returns the records in order of sending, and the seconds from the start to the last
    answer.
    """
    room = asyncio.Semaphore(concurrency) if concurrency else None
    tasks: list[asyncio.Task[Record]] = []

    async def one(request: Request) -> Record:
        try:
            record = await target.ask(request)
        finally:
            if room:
                room.release()
        done(record)
        return record

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for request in requests:
            if duration is not None and request.due >= duration:
                break
            if (wait := begin + request.due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if room:
                await room.acquire()
            if duration is not None and time.perf_counter() - begin >= duration:
                break
            tasks.append(group.create_task(one(request)))
    return [task.result() for task in tasks], time.perf_counter() - begin
