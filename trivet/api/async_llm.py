"""Text in, text out, over an engine that knows only tokens."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from trivet.api.args import EngineArgs
from trivet.api.completion import Completion
from trivet.api.job import Job
from trivet.api.model_config import ModelConfig
from trivet.api.outputs import RequestOutput, RequestStateStats
from trivet.api.prompts import Prompt, generate_request, within_limits
from trivet.api.refusals import refuses
from trivet.api.request import GenerateRequest
from trivet.engine.client import EngineClient
from trivet.engine.messages import StoreCommand, Stored
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo
from trivet.errors import EngineError, RequestError
from trivet.sampling.defaults import recommended
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import RequestOutputKind
from trivet.text.phrases import Breaker, Phrases
from trivet.text.pipeline import LONG_TEXT
from trivet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from trivet.text.chat_template import ChatTemplate

log = logging.getLogger(__name__)


@refuses(
    *("encode", "sleep", "wake_up", "release_kv_cache_memory", "pause_generation", "resume_generation"),
    *("add_lora", "remove_lora", "list_loras", "pin_lora", "collective_rpc", "start_profile", "stop_profile"),
    *("scale_elastic_ep", "init_weight_transfer_engine", "start_weight_update", "update_weights"),
    *("finish_weight_update", "update_weight_version", "get_weight_version"),
)
class AsyncLLM:
    """The one way to an engine: what the HTTP server and `LLM` are built on, and vLLM's `AsyncLLM`.

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model="model.gguf"))
        async for output in llm.generate("Once upon a time", SamplingParams(max_tokens=40), request_id="1"):
            print(output.outputs[0].text)
        llm.shutdown()

    Without a client the engine runs in this process. What `start` has not loaded yet cannot be asked for. One event
    loop at a time.
    """

    tokenizer: Tokenizer
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
        self._resets = 0
        self._jobs: defaultdict[str, set[Job]] = defaultdict(set)
        """What `follow` runs, by the caller's request id, which may repeat."""

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        start_engine_loop: bool = True,
        usage_context: Any = None,
        stat_loggers: Any = None,
    ) -> Self:
        """Load a model into this process, and wait for it. Raises ModelError or EngineError.

        stat_loggers are refused; start_engine_loop and usage_context change nothing.
        """
        if stat_loggers:
            raise RequestError("stat_loggers are not supported", "stat_loggers")
        llm = cls(engine_args)
        _wait(llm.start())
        return llm

    @property
    def info(self) -> ModelInfo:
        return self._client.info

    @property
    def model_names(self) -> list[str]:
        """The names the model is served under, the reported one first."""
        names = self.args.served_model_name
        return [names] if isinstance(names, str) else list(names or [self.args.model or self.info.name])

    @property
    def model_path(self) -> str:
        """The file or folder that the model was loaded from."""
        return self._config.model

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig.of(self.args, self.info)

    async def start(self) -> None:
        """Load tokenizer and model, side by side. Raises ModelError or EngineError."""
        engine = asyncio.ensure_future(self._client.start())
        try:
            await self._load_text()
            await engine
        except BaseException:
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)
            await self._client.close()
            raise
        self.tokenizer.widen(self.info.vocab_size)
        self._eos_ids = [token for token in self.tokenizer.eos_ids if token < self.info.vocab_size]

    async def _load_text(self) -> None:
        args = self.args
        self.tokenizer = await asyncio.to_thread(Tokenizer.load, args.tokenizer or self._config.model)
        self._phrases = Phrases(self.tokenizer)
        self.recommended_params = recommended(
            self._config.model, args.generation_config, args.override_generation_config
        )
        if args.chat_template is not None:
            _ = self.chat_template  # so that it is refused now if it is not valid

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Compiled when it is first asked for: a text to be completed needs none. Raises ModelError."""
        from trivet.text.chat_template import ChatTemplate

        args = self.args
        return ChatTemplate(read_template(args.chat_template), self.tokenizer, args.default_chat_template_kwargs)

    async def close(self) -> None:
        await self._client.close()

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the engine at once and free its memory, from any thread; what runs ends with the reason "abort"."""
        _wait(self.close())

    def stats(self) -> EngineStats:
        return self._client.stats()

    def check_room(self) -> None:
        """Raises OverloadedError where every request is refused for now."""
        self._client.check_room()

    def healthy(self) -> bool:
        return self._client.healthy()

    def get_num_unfinished_requests(self) -> int:
        """Of `generate`."""
        return sum(len(jobs) for jobs in self._jobs.values())

    async def check_health(self) -> None:
        """Raises EngineError when the engine is gone."""
        if self.errored:
            raise self.dead_error

    @property
    def is_running(self) -> bool:
        return self.healthy()

    @property
    def is_stopped(self) -> bool:
        return not self.healthy()

    @property
    def errored(self) -> bool:
        return not self.healthy()

    @property
    def dead_error(self) -> EngineError:
        return EngineError("the engine is not running")

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def is_paused(self) -> bool:
        return False

    async def is_sleeping(self) -> bool:
        return False

    async def is_tracing_enabled(self) -> bool:
        return False

    async def do_log_stats(self) -> None:
        log.info("%s", msgspec.structs.replace(self.stats(), histograms=b""))

    async def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Let later requests find nothing of earlier ones; the memory is reused as they need it."""
        self._resets += 1
        return True

    async def store(self, action: str, tokens: list[int], cache_salt: str = "", path: str = "") -> Stored:
        """Do something with the cached blocks of a sequence: "save" them to a file, "load" them, or "drop" them.

        Raises RequestError, as when the file is damaged or of another model.
        """
        salt = f"{cache_salt}\n{self._resets}\n" if self._resets else cache_salt
        return await self._client.store(StoreCommand(0, action, tokens, salt, path))

    async def reset_mm_cache(self) -> None:
        """Nothing to do: there is no such cache."""

    async def reset_encoder_cache(self) -> None:
        """Nothing to do: there is no such cache."""

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

    def request(
        self, prompt: Prompt, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> GenerateRequest:
        """What `generate` makes of its arguments, within vLLM's limits. Raises RequestError."""
        request = generate_request(prompt, sampling_params, request_id, **options)
        request.params = within_limits(request.params, self.args.max_logprobs)
        request.deltas = request.params.output_kind is RequestOutputKind.DELTA
        return request

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Any = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        session_id: str | None = None,
        kv_hints: Any = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's: stream outputs as `sampling_params.output_kind` says; the last is `finished`. Closing it cancels.

        request_id: what `abort` may call it. priority: lower runs first. tokenization_kwargs: `add_special_tokens`,
        `truncate_prompt_tokens`. session_id, kv_hints and the reasoning arguments change nothing here.

        Raises as `stream` does.
        """
        request = self.request(
            prompt,
            sampling_params,
            request_id,
            prompt_text=prompt_text,
            priority=priority,
            tokenization_kwargs=tokenization_kwargs,
            lora_request=lora_request,
            data_parallel_rank=data_parallel_rank,
            trace_headers=trace_headers,
        )
        if getattr(self.args, "enable_log_requests", False):
            log.info("request %s: %r", request_id, request.params)
        async with aclosing(self.follow(await self.prepare(request))) as outputs:
            async for output in outputs:
                yield output

    async def follow(self, job: Job) -> AsyncGenerator[RequestOutput, None]:
        """Run what `prepare` made, giving outputs as its `output_kind` says; `abort` knows it by its request's id."""
        name, kind = job.request.request_id, job.request.params.output_kind
        self._jobs[name].add(job)
        try:
            if kind is RequestOutputKind.FINAL_ONLY:
                yield await self.finish(job)
                return
            async with aclosing(self._outputs(job)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._jobs[name].discard(job)
            if not self._jobs[name]:
                del self._jobs[name]

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests by their ids; their streams end with the finish reason "abort"."""
        for name in [request_id] if isinstance(request_id, str) else request_id:
            for job in list(self._jobs.get(name, ())):
                await job.abort()

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Stream outputs, each with the sequences that changed; the last is `finished`. Closing it cancels.

        Raises RequestError, OverloadedError, DeadlineError, or EngineError when the engine fails at this request.
        """
        async with aclosing(self._outputs(await self.prepare(request))) as outputs:
            async for output in outputs:
                yield output

    async def complete(self, request: GenerateRequest) -> RequestOutput:
        """Wait for the whole output. Raises as `stream` does; cancelling cancels."""
        return await self.finish(await self.prepare(request))

    async def finish(self, job: Job) -> RequestOutput:
        """Run what `prepare` made, to the end."""
        async with aclosing(job.run(self._client)) as changes:
            async for completions in changes:
                for completion in completions:
                    completion.changed = False
        return job.output(job.completions, deltas=False)

    async def _outputs(self, job: Job) -> AsyncGenerator[RequestOutput, None]:
        interval = job.request.params.stream_interval or self.args.stream_interval
        async with aclosing(job.run(self._client)) as changes:
            async for completions in changes:
                if due := [completion for completion in completions if completion.due(interval)]:
                    yield job.output(due, job.request.deltas)

    async def prepare(self, request: GenerateRequest) -> Job:
        """Tokenise and check a request. Raises RequestError."""
        metrics = RequestStateStats(arrival_time=time.time())
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
        if params.n > self.info.max_requests:
            raise RequestError(
                f"n={params.n} sequences never all find a place: {self.info.max_requests} run or wait at most",
                "n",
            )
        seed = params.seed if params.seed is not None else self._seeds.getrandbits(63)
        breakers: list[Breaker] = []
        if params.dry_multiplier > 0 and "dry" in params.stages:
            breakers = await asyncio.to_thread(self._phrases.breakers, params.dry_sequence_breakers)
        parents = await asyncio.to_thread(self._phrases.parents) if "infill" in params.stages else b""
        bad_words = await asyncio.to_thread(self._phrases.bad_words, params.bad_words) if params.bad_words else []
        name = f"{request.request_id}-{next(self._ids)}"
        children = [
            EngineRequest(
                request_id=f"{name}-{i}",
                prompt=prompt,
                params=self._engine_params(params, len(prompt), first=i == 0),
                seed=(seed + i) % 2**64,
                eos_token_ids=self._eos_ids,
                bad_words=bad_words,
                dry_breakers=breakers,
                piece_parents=parents,
                group=name if params.n > 1 else None,
                priority=request.priority,
                tenant=request.tenant,
                cache_salt=self._salt(request, name),
                report_progress=request.report_progress and i == 0,
            )
            for i in range(params.n)
        ]
        self.info.check(children[0])
        return Job(
            request=request,
            prompt=prompt,
            children=children,
            completions=[Completion(i, self.tokenizer, prompt, params) for i in range(params.n)],
            tokenizer=self.tokenizer,
            metrics=metrics,
        )

    def _engine_params(self, params: SamplingParams, prompt_len: int, first: bool) -> SamplingParams:
        """Those of one of n sequences; where max_tokens goes past the context, generation ends with it."""
        room = max(1, self.info.max_model_len - prompt_len)
        return msgspec.structs.replace(
            params,
            n=1,
            output_kind=RequestOutputKind.CUMULATIVE,
            stream_interval=None,
            repetition_detection=None,
            stop=None,
            bad_words=None,
            dry_sequence_breakers=(),
            max_tokens=min(params.max_tokens or room, room),
            min_tokens=min(params.min_tokens, room),
            prompt_logprobs=params.prompt_logprobs if first else None,
        )

    def _salt(self, request: GenerateRequest, name: str) -> str:
        """Keeps a request from cached blocks that it must not find: `name` is one that no other request has."""
        own = name if request.params.skip_reading_prefix_cache else ""
        return f"{request.cache_salt}\n{self._resets}\n{own}" if self._resets or own else request.cache_salt


AsyncLLMEngine = AsyncLLM
"""vLLM's older name."""


def _wait(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, whether or not this thread has an event loop that runs."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def read_template(template: str | None) -> str | None:
    """A template as given, or what the file of that name holds. Raises OSError."""
    if template is None or "{" in template or "\n" in template:
        return template
    return Path(template).read_text(encoding="utf-8")
