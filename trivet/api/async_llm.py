"""Text in, text out, over an engine that knows only tokens."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trivet.api.args import EngineArgs
from trivet.api.completion import Completion, describe
from trivet.api.defaults import recommended
from trivet.api.outputs import Logprob, RequestMetrics, RequestOutput
from trivet.api.request import GenerateRequest
from trivet.engine.client import EngineClient
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk
from trivet.engine.streams import TokenStream
from trivet.errors import EngineError, RequestError
from trivet.sampling.params import SamplingParams
from trivet.text.chat_template import ChatTemplate
from trivet.text.tokenizer import Tokenizer

LONG_TEXT = 4096
"""Characters from which a prompt is tokenised in a thread, so that the event loop goes on."""


@dataclass(slots=True)
class Job:
    """A request, tokenised and checked: one engine request and one completion for each of its n sequences."""

    request: GenerateRequest
    prompt: list[int]
    children: list[EngineRequest]
    completions: list[Completion]
    metrics: RequestMetrics
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    cached_tokens: int = 0

    def output(self, completions: Sequence[Completion], deltas: bool) -> RequestOutput:
        text = self.request.prompt
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=text if isinstance(text, str) else None,
            prompt_token_ids=self.prompt,
            prompt_logprobs=self.prompt_logprobs,
            outputs=[completion.output(deltas) for completion in completions],
            finished=all(completion.finish_reason is not None for completion in self.completions),
            metrics=self.metrics,
            num_cached_tokens=self.cached_tokens,
        )


class AsyncLLM:
    """The one way to an engine: what the HTTP server and `LLM` are built on.

    Without a client the engine runs in this process. Attributes but `args` exist once `start` has returned.
    """

    tokenizer: Tokenizer
    chat_template: ChatTemplate
    recommended_params: dict[str, Any]
    """What the model's makers recommend, as keywords of SamplingParams."""

    def __init__(self, args: EngineArgs, client: EngineClient | None = None) -> None:
        self.args = args
        self._config = args.engine_config()
        if client is None:
            from trivet.engine.inprocess import InProcessClient

            client = InProcessClient(self._config)
        self._client = client
        self._ids = itertools.count()
        self._seeds = random.Random(args.seed)

    @property
    def info(self) -> ModelInfo:
        return self._client.info

    @property
    def model_names(self) -> list[str]:
        """The names the model is served under, the reported one first."""
        names = self.args.served_model_name
        return [names] if isinstance(names, str) else list(names or [self.args.model or self.info.name])

    async def start(self) -> None:
        """Load tokenizer and model. Raises ModelError or EngineError."""
        self.tokenizer = await asyncio.to_thread(Tokenizer.load, self.args.tokenizer or self._config.model)
        self.recommended_params = recommended(self._config.model)
        self.chat_template = ChatTemplate(read_template(self.args.chat_template), self.tokenizer)
        await self._client.start()
        self.tokenizer.widen(self.info.vocab_size)
        self._eos_ids = [token for token in self.tokenizer.eos_ids if token < self.info.vocab_size]

    async def close(self) -> None:
        await self._client.close()

    def stats(self) -> EngineStats:
        return self._client.stats()

    def healthy(self) -> bool:
        return self._client.healthy()

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template: ChatTemplate | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt of a chat, to be sent with `add_special_tokens=False`. Raises RequestError."""
        return (template or self.chat_template).render(messages, tools, add_generation_prompt, **kwargs)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Stream outputs, each with the sequences that changed; the last is `finished`. Closing it cancels.

        Raises RequestError, OverloadedError, or EngineError when the engine fails at this request.
        """
        job = await self.prepare(request)
        async with aclosing(self._changes(job)) as changes:
            async for completions in changes:
                yield job.output(completions, request.deltas)

    async def complete(self, request: GenerateRequest) -> RequestOutput:
        """Wait for the whole output. Raises as `generate` does; cancelling cancels."""
        return await self.finish(await self.prepare(request))

    async def finish(self, job: Job) -> RequestOutput:
        """Run what `prepare` made, to the end."""
        async with aclosing(self._changes(job)) as changes:
            async for completions in changes:
                for completion in completions:
                    completion.changed = False
        return job.output(job.completions, deltas=False)

    async def prepare(self, request: GenerateRequest) -> Job:
        """Tokenise and check a request. Raises RequestError."""
        metrics = RequestMetrics(arrival_time=time.time())
        if isinstance(request.prompt, list):
            prompt = request.prompt
        elif len(request.prompt) < LONG_TEXT:
            prompt = self.tokenizer.encode(request.prompt, request.add_special_tokens)
        else:
            encode = self.tokenizer.encode
            prompt = await asyncio.to_thread(encode, request.prompt, request.add_special_tokens)
        if (keep := request.truncate_prompt_tokens) is not None:
            if keep < 1:
                name = "truncate_prompt_tokens"
                raise RequestError(f"{name} must be at least 1, got {keep}", name)
            prompt = prompt[-keep:]
        params = request.params
        if params.stop and not params.detokenize:
            raise RequestError("stop strings need detokenize=True", "stop")
        seed = params.seed if params.seed is not None else self._seeds.getrandbits(63)
        name = f"{request.request_id}-{next(self._ids)}"
        children = [
            EngineRequest(
                request_id=f"{name}-{i}",
                prompt=prompt,
                params=self._engine_params(params, len(prompt), first=i == 0),
                seed=(seed + i) % 2**64,
                eos_token_ids=self._eos_ids,
                group=name if params.n > 1 else None,
                priority=request.priority,
                cache_salt=request.cache_salt,
            )
            for i in range(params.n)
        ]
        self.info.check(children[0])
        return Job(
            request=request,
            prompt=prompt,
            children=children,
            completions=[Completion(i, self.tokenizer, prompt, params) for i in range(params.n)],
            metrics=metrics,
        )

    def _engine_params(self, params: SamplingParams, prompt_len: int, first: bool) -> SamplingParams:
        """Those of one of n sequences; where max_tokens goes past the context, generation ends with it."""
        room = max(1, self.info.max_model_len - prompt_len)
        return msgspec.structs.replace(
            params,
            n=1,
            stop=None,
            max_tokens=min(params.max_tokens or room, room),
            min_tokens=min(params.min_tokens, room),
            prompt_logprobs=params.prompt_logprobs if first else None,
        )

    async def _changes(self, job: Job) -> AsyncGenerator[list[Completion], None]:
        """Run a job; yields the completions that changed."""
        streams = [self._client.submit(child) for child in job.children]
        if len(streams) == 1:
            async with aclosing(self._follow(job, 0, streams[0])) as steps:
                async for _ in steps:
                    yield job.completions
            return
        news = asyncio.Event()

        async def follow(index: int) -> None:
            async with aclosing(self._follow(job, index, streams[index])) as steps:
                async for _ in steps:
                    news.set()

        tasks = [asyncio.create_task(follow(index)) for index in range(len(streams))]
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
                if changed := [completion for completion in job.completions if completion.changed]:
                    yield changed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, job: Job, index: int, stream: TokenStream) -> AsyncGenerator[None, None]:
        """Feed one sequence from the engine until it ends; leaving early cancels it there."""
        completion = job.completions[index]
        async with aclosing(stream):
            async for chunk in stream:
                if chunk.error is not None:
                    raise EngineError(chunk.error)
                self._note(job, chunk)
                completion.extend(chunk)
                yield
                if completion.finish_reason is not None:
                    return

    def _note(self, job: Job, chunk: TokenChunk) -> None:
        metrics = job.metrics
        if not metrics.queued_ts:
            metrics.queued_ts, metrics.scheduled_ts = chunk.queued_at, chunk.scheduled_at
            job.cached_tokens = chunk.cached_tokens
        if chunk.prompt_logprobs is not None:
            job.prompt_logprobs = [
                describe(entry, self.tokenizer) if entry else None for entry in chunk.prompt_logprobs
            ]
        if chunk.tokens:
            metrics.first_token_ts = metrics.first_token_ts or chunk.emitted_at
            metrics.last_token_ts = chunk.emitted_at
            metrics.num_generation_tokens += len(chunk.tokens)


def read_template(template: str | None) -> str | None:
    """A template as given, or what the file of that name holds. Raises OSError."""
    if template is None or "{" in template or "\n" in template:
        return template
    return Path(template).read_text(encoding="utf-8")
