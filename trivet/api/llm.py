"""The offline API: vLLM's `LLM`, with the engine in this process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.beam_search import BeamSearchOutput, beam_search
from trivet.api.job import Job
from trivet.api.llm_engine import LLMEngine
from trivet.api.model_config import ModelConfig
from trivet.api.outputs import RequestOutput
from trivet.api.prompts import Prompt, generate_request, listed
from trivet.api.refusals import refuses
from trivet.api.request import GenerateRequest
from trivet.engine.request import ModelInfo
from trivet.errors import EngineError, OverloadedError, RequestError
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import BeamSearchParams
from trivet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from trivet.api.progress import Progress
    from trivet.metrics.reader import Metric

Message = dict[str, Any]
Chats = Sequence[Message] | Sequence[Sequence[Message]]
OneOrMore = SamplingParams | Sequence[SamplingParams] | None
UseTqdm = bool | Callable[..., Any]
"""vLLM takes a tqdm class too; here it only means that there is a bar."""


@refuses(
    *("encode", "embed", "classify", "score", "reward", "sleep", "wake_up", "release_kv_cache_memory"),
    *("collective_rpc", "apply_model", "start_profile", "stop_profile"),
    *("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"),
    *("update_weight_version", "get_weight_version"),
)
class LLM:
    """Generates text from this program.

        llm = LLM(model="model.gguf")
        outputs = llm.generate(["Once upon a time"], SamplingParams(temperature=0, max_tokens=40))

    Keywords are those of `EngineArgs`. Raises ModelError when the model cannot be loaded. Use it as a context manager,
    or `close` it, to free its threads and memory early.
    """

    def __init__(self, model: str | None = None, *, engine_args: EngineArgs | None = None, **kwargs: Any) -> None:
        if engine_args is None:
            if isinstance(template := kwargs.get("chat_template"), Path):
                kwargs["chat_template"] = str(template)
            engine_args = EngineArgs(model=model, **kwargs)
        elif model is not None or kwargs:
            raise TypeError("give engine_args or the arguments themselves, not both")
        self.llm_engine = LLMEngine(engine_args)
        self._ids = itertools.count()
        self._enqueued: list[asyncio.Task[RequestOutput]] = []

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> Self:
        return cls(engine_args=engine_args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine and free its memory; further calls are errors."""
        self.llm_engine.close()

    def get_tokenizer(self) -> Tokenizer:
        return self._llm.tokenizer

    @property
    def info(self) -> ModelInfo:
        """The model's sizes and limits, as the engine runs it."""
        return self._llm.info

    @property
    def model_config(self) -> ModelConfig:
        return self._llm.model_config

    @property
    def recommended_params(self) -> dict[str, Any]:
        """What the model's `generation_config.json` or GGUF metadata says, as keywords of SamplingParams."""
        return self._llm.recommended_params

    def get_default_sampling_params(self) -> SamplingParams:
        """vLLM's defaults, changed by what the model's makers recommend."""
        return SamplingParams(**self.recommended_params)

    def get_metrics(self) -> list[Metric]:
        """What the engine counts of itself, by vLLM's names."""
        return self.llm_engine.get_metrics()

    def get_world_size(self, include_dp: bool = True) -> int:
        return 1

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """See `AsyncLLM.reset_prefix_cache`."""
        return self.llm_engine.reset_prefix_cache()

    def reset_mm_cache(self) -> None:
        """Nothing to do: there is no such cache."""

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: OneOrMore = None,
        *,
        use_tqdm: UseTqdm = True,
        lora_request: Any = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, all at once; outputs are in their order.

        sampling_params: one for all, or one for each prompt; None is `get_default_sampling_params()`.
        use_tqdm: show a progress bar on stderr when it takes more than a second.
        priority: one number, or one for each prompt; lower runs first.
        tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`.

        Raises RequestError for an invalid prompt, before anything runs, and for what is not supported (LoRA, images).
        A prompt at which the engine fails has finish_reason "error"; EngineError is raised when the engine is gone.
        """
        requests = self._requests(
            listed(prompts),
            sampling_params,
            priority,
            lora_request=lora_request,
            tokenization_kwargs=tokenization_kwargs,
            mm_processor_kwargs=mm_processor_kwargs,
        )
        return self._collect(self._start(requests), use_tqdm)

    def chat(
        self,
        messages: Chats,
        sampling_params: OneOrMore = None,
        use_tqdm: UseTqdm = True,
        lora_request: Any = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several at once; a conversation is a list of {"role", "content"}.

        chat_template: a Jinja template to use instead of the model's. continue_final_message: go on where the last
        message ends; needs add_generation_prompt=False. tools: told to the template; calls come as text.
        chat_template_content_format: "auto" only: contents have the form that the template reads. The rest is as in
        `generate`.
        """
        requests = self._chat_requests(
            messages,
            sampling_params,
            lora_request=lora_request,
            priority=priority,
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            tokenization_kwargs=tokenization_kwargs,
            mm_processor_kwargs=mm_processor_kwargs,
        )
        return self._collect(self._start(requests), use_tqdm)

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: OneOrMore = None,
        lora_request: Any = None,
        priority: int | Sequence[int] | None = None,
        use_tqdm: UseTqdm = True,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[str]:
        """Start what `generate` does and return the requests' ids; `wait_for_completion` has the outputs."""
        requests = self._requests(
            listed(prompts),
            sampling_params,
            priority,
            lora_request=lora_request,
            tokenization_kwargs=tokenization_kwargs,
            mm_processor_kwargs=mm_processor_kwargs,
        )
        self._enqueued += self._start(requests)
        return [request.request_id for request in requests]

    def enqueue_chat(
        self, messages: Chats, sampling_params: OneOrMore = None, use_tqdm: UseTqdm = True, **options: Any
    ) -> list[str]:
        """Start what `chat` does, with its options, and return the requests' ids."""
        requests = self._chat_requests(messages, sampling_params, **options)
        self._enqueued += self._start(requests)
        return [request.request_id for request in requests]

    def wait_for_completion(
        self, output_type: type[Any] | tuple[type[Any], ...] | None = None, *, use_tqdm: UseTqdm = True
    ) -> list[RequestOutput]:
        """The outputs of what was enqueued since the last call, in that order; all are of type RequestOutput."""
        started, self._enqueued = self._enqueued, []
        return self._collect(started, use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        lora_request: Any = None,
        use_tqdm: UseTqdm = False,
        concurrency_limit: int | None = None,
    ) -> list[BeamSearchOutput]:
        """The best sequences of each prompt, see `beam_search`. concurrency_limit: so many prompts at once."""
        requests = self._requests(listed(prompts), SamplingParams(max_tokens=1), lora_request=lora_request)
        gate = asyncio.Semaphore(concurrency_limit or max(len(requests), 1))

        async def search(request: GenerateRequest) -> BeamSearchOutput:
            async with gate:
                return await beam_search(self._llm, request, params)

        async def all_prompts() -> list[BeamSearchOutput]:
            with _progress(len(requests), use_tqdm) as progress:
                tasks = [asyncio.create_task(search(request)) for request in requests]
                try:
                    for task in tasks:
                        progress.advance(sum(len(sequence.logprobs) for sequence in (await task).sequences))
                    return [task.result() for task in tasks]
                finally:
                    for task in tasks:
                        task.cancel()

        return self.llm_engine.run(all_prompts())

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, add_special_tokens: bool = True
    ) -> Iterator[RequestOutput]:
        """Complete one prompt and yield what is new as it comes; closing the iterator cancels."""
        params = sampling_params if sampling_params is not None else self.get_default_sampling_params()
        request = generate_request(prompt, params, str(next(self._ids)))
        request.add_special_tokens = add_special_tokens
        outputs = self._llm.stream(request)

        async def following() -> RequestOutput | None:
            return await anext(outputs, None)

        try:
            while (output := self.llm_engine.run(following())) is not None:
                yield output
        except GeneratorExit:
            if self.llm_engine.alive:
                self.llm_engine.run(outputs.aclose())
            raise

    def render_chat(self, messages: Sequence[Message], **kwargs: Any) -> str:
        """The prompt that `chat` makes of a conversation. Raises RequestError when the model has no template."""
        return self._llm.render_chat(list(messages), **kwargs)

    @property
    def _llm(self) -> AsyncLLM:
        return self.llm_engine.llm

    def _requests(
        self, prompts: Sequence[Prompt], params: OneOrMore, priority: int | Sequence[int] | None = None, **options: Any
    ) -> list[GenerateRequest]:
        if params is None:
            params = self.get_default_sampling_params()
        if not isinstance(params, Sequence):
            params = [params] * len(prompts)
        if not isinstance(priority, Sequence):
            priority = [priority or 0] * len(prompts)
        for name, values in (("sampling_params", params), ("priority", priority)):
            if len(values) != len(prompts):
                raise RequestError(f"{len(prompts)} prompts but {len(values)} {name}: give one for each", name)
        return [
            self._llm.request(prompt, params[i], str(next(self._ids)), priority=priority[i], **options)
            for i, prompt in enumerate(prompts)
        ]

    def _chat_requests(
        self,
        messages: Chats,
        sampling_params: OneOrMore,
        *,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[GenerateRequest]:
        if chat_template_content_format != "auto":
            name = "chat_template_content_format"
            raise RequestError(f"{name} may only be 'auto', got {chat_template_content_format!r}", name)
        given = cast(Any, messages)
        if not isinstance(given, Sequence) or not all(isinstance(each, dict | Sequence) for each in given):
            raise RequestError(f"messages must be a conversation or a list of them, got {given!r:.80}", "messages")
        conversations: Sequence[Sequence[Message]] = [given] if given and isinstance(given[0], dict) else given
        template = None
        if chat_template:
            from trivet.text.chat_template import ChatTemplate

            template = ChatTemplate(chat_template, self._llm.tokenizer)
        more = dict(chat_template_kwargs or {})
        if continue_final_message:
            more["continue_final_message"] = True
        prompts: list[Prompt] = [
            self._llm.render_chat(list(conversation), tools, add_generation_prompt, template, **more)
            for conversation in conversations
        ]
        tokenization = {"add_special_tokens": False, **(tokenization_kwargs or {})}
        return self._requests(prompts, sampling_params, priority, tokenization_kwargs=tokenization, **options)

    def _start(self, requests: list[GenerateRequest]) -> list[asyncio.Task[RequestOutput]]:
        """Raises RequestError before any of them runs."""

        async def start() -> list[asyncio.Task[RequestOutput]]:
            jobs = [await self._llm.prepare(request) for request in requests]
            return [asyncio.create_task(self._finish(job)) for job in jobs]

        return self.llm_engine.run(start())

    def _collect(self, tasks: list[asyncio.Task[RequestOutput]], use_tqdm: UseTqdm) -> list[RequestOutput]:
        async def collect() -> list[RequestOutput]:
            with _progress(len(tasks), use_tqdm) as progress:

                async def counted(task: asyncio.Task[RequestOutput]) -> RequestOutput:
                    output = await task
                    progress.advance(sum(len(completion.token_ids) for completion in output.outputs))
                    return output

                try:
                    return await asyncio.gather(*map(counted, tasks))
                finally:
                    for task in tasks:
                        task.cancel()

        return self.llm_engine.run(collect())

    async def _finish(self, job: Job) -> RequestOutput:
        try:
            return await self._llm.finish(job)
        except (EngineError, OverloadedError) as error:
            if not self._llm.healthy():
                raise
            return job.failed(error)


def _progress(total: int, use_tqdm: UseTqdm) -> Progress:
    from trivet.api.progress import Progress

    return Progress(total, enabled=bool(use_tqdm))
