"""Joins the deltas of a request to the whole: what is not streamed is the stream, put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.errors import EngineError


class Collected:
    """Grows by `add`; takes the deltas over as its own."""

    def __init__(self) -> None:
        self._whole: RequestOutput | None = None
        self._sequences: dict[int, CompletionOutput] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, delta: RequestOutput) -> None:
        if self._whole is None:
            self._whole = delta
        self._whole.metrics, self._whole.finished = delta.metrics, delta.finished
        self._whole.num_cached_tokens = max(self._whole.num_cached_tokens, delta.num_cached_tokens)
        for new in delta.outputs:
            self._texts.setdefault(new.index, []).append(new.text)
            old = self._sequences.setdefault(new.index, new)
            if old is new:
                continue
            old.token_ids += new.token_ids
            old.tokens += new.tokens
            if new.logprobs is not None:
                old.logprobs = (old.logprobs or []) + new.logprobs
            old.cumulative_logprob = new.cumulative_logprob
            old.finish_reason, old.stop_reason = new.finish_reason, new.stop_reason

    def whole(self) -> RequestOutput:
        """The request's output, its sequences by index. Raises EngineError when it has not finished."""
        if self._whole is None or not self._whole.finished:
            raise EngineError("the engine stopped before the request was finished")
        for index, pieces in self._texts.items():
            self._sequences[index].text = "".join(pieces)
        self._whole.outputs = [self._sequences[index] for index in sorted(self._sequences)]
        return self._whole


async def collect(outputs: AsyncGenerator[RequestOutput, None]) -> RequestOutput:
    collected = Collected()
    async with aclosing(outputs):
        async for delta in outputs:
            collected.add(delta)
    return collected.whole()


async def collect_all(outputs: AsyncGenerator[tuple[int, RequestOutput], None], count: int) -> list[RequestOutput]:
    """The outputs of `count` requests, merged to one stream, in the order of the requests."""
    collected = [Collected() for _ in range(count)]
    async with aclosing(outputs):
        async for index, delta in outputs:
            collected[index].add(delta)
    return [one.whole() for one in collected]
