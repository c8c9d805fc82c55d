"""A request on its way through the engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from trivet.api.completion import Completion, describe
from trivet.api.flat_logprobs import FlatLogprobs
from trivet.api.outputs import Logprob, RequestOutput, RequestStateStats
from trivet.api.request import GenerateRequest
from trivet.engine.client import EngineClient
from trivet.engine.request import EngineRequest, TokenChunk
from trivet.engine.streams import TokenStream
from trivet.errors import DeadlineError, EngineError, OverloadedError

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A request, tokenised and checked: one engine request and one completion for each of its n sequences."""

    request: GenerateRequest
    prompt: list[int]
    children: list[EngineRequest]
    completions: list[Completion]
    tokenizer: Tokenizer
    metrics: RequestStateStats
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    cached_tokens: int = 0
    prompt_done: int = 0
    _streams: list[TokenStream] = field(default_factory=list)
    _expired: asyncio.Task[None] | None = None
    """What ends the streams because the time is up."""

    def output(self, completions: Sequence[Completion], deltas: bool) -> RequestOutput:
        text, prompt_logprobs = self.request.prompt, self.prompt_logprobs
        if prompt_logprobs is not None and self.request.params.flat_logprobs:
            prompt_logprobs = cast(list[dict[int, Logprob] | None], FlatLogprobs.of(prompt_logprobs))
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=text if isinstance(text, str) else self.request.prompt_text,
            prompt_token_ids=self.prompt,
            prompt_logprobs=prompt_logprobs,
            outputs=[completion.output(deltas) for completion in completions],
            finished=None not in [completion.finish_reason for completion in self.completions],
            metrics=self.metrics,
            num_cached_tokens=self.cached_tokens,
            prompt_tokens_done=self.prompt_done,
        )

    async def run(self, client: EngineClient) -> AsyncGenerator[list[Completion], None]:
        """Yield the completions that changed, until all have ended; closing it cancels.

        Raises OverloadedError, DeadlineError, or EngineError when the engine fails at this request.
        """
        self._streams += [client.submit(child) for child in self.children]
        with self._deadline():
            if len(self._streams) == 1:
                async with aclosing(self._follow(0)) as steps:
                    async for _ in steps:
                        yield self.completions
                return
            news = asyncio.Event()

            async def follow(index: int) -> None:
                async with aclosing(self._follow(index)) as steps:
                    async for _ in steps:
                        news.set()

            tasks = [asyncio.create_task(follow(index)) for index in range(len(self._streams))]
            for task in tasks:
                task.add_done_callback(lambda _: news.set())
            try:
                running = True
                while running:
                    await news.wait()
                    news.clear()
                    running = not all(task.done() for task in tasks)
                    for task in tasks:
                        if task.done():
                            task.result()
                    if self._awaits_prompt_logprobs() and not tasks[0].done():
                        continue
                    if changed := [completion for completion in self.completions if completion.changed]:
                        yield changed
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _awaits_prompt_logprobs(self) -> bool:
        """Whether they are still to come, with the first sequence: others may find the prompt in the cache and be
        ahead of it, but the first output has them.
        """
        return self.request.params.prompt_logprobs is not None and self.prompt_logprobs is None

    def failed(self, error: EngineError | OverloadedError) -> RequestOutput:
        """What there is of a request that the engine failed at or refused, which must not cost others their work."""
        log.error("request %s failed: %s", self.request.request_id, error)
        for completion in self.completions:
            completion.finish_reason = completion.finish_reason or "error"
        return self.output(self.completions, self.request.deltas)

    async def abort(self) -> None:
        """End what still runs with the finish reason "abort"."""
        for stream in self._streams:
            await stream.aclose()

    async def _follow(self, index: int) -> AsyncGenerator[None, None]:
        """Feed one sequence from the engine until it ends; leaving early cancels it there."""
        completion = self.completions[index]
        async with aclosing(self._streams[index]) as stream:
            async for chunk in stream:
                if chunk.error is not None:
                    raise EngineError(chunk.error)
                if self._expired is not None:
                    break
                self._note(chunk)
                completion.extend(chunk)
                yield
                if completion.finish_reason is not None:
                    return
        if self._expired is not None:
            raise DeadlineError(
                f"the request took longer than its timeout of {self.request.timeout:g} seconds;"
                f" it has generated {self.metrics.num_generation_tokens} tokens"
            )
        completion.extend(TokenChunk(request_id=self.children[index].request_id, finish_reason="abort"))
        yield

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """End the streams when the request's time is up."""
        if self.request.timeout is None:
            yield
            return

        def expire() -> None:
            self._expired = asyncio.ensure_future(self.abort())

        left = self.request.timeout - (time.time() - self.metrics.arrival_time)
        timer = asyncio.get_running_loop().call_later(left, expire)
        try:
            yield
        finally:
            timer.cancel()

    def _note(self, chunk: TokenChunk) -> None:
        metrics = self.metrics
        self.prompt_done = max(self.prompt_done, chunk.prompt_done)
        if not metrics.queued_ts:
            metrics.queued_ts, metrics.scheduled_ts = chunk.queued_at, chunk.scheduled_at
            self.cached_tokens = chunk.cached_tokens
        if chunk.prompt_logprobs is not None:
            self.prompt_logprobs = [
                describe(entry, self.tokenizer) if entry else None for entry in chunk.prompt_logprobs
            ]
        if chunk.tokens:
            if not metrics.first_token_ts:
                metrics.first_token_ts = chunk.first_emitted_at or chunk.emitted_at
                metrics.first_token_latency = time.time() - metrics.arrival_time
            metrics.last_token_ts = chunk.emitted_at
            metrics.num_generation_tokens += len(chunk.tokens)
        metrics.num_preemptions += chunk.preemptions
