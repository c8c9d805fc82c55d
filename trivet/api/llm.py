"""The offline API: vLLM's `LLM`, with the engine in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar, cast

from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM, Job
from trivet.api.outputs import RequestOutput
from trivet.api.progress import Progress
from trivet.api.request import GenerateRequest
from trivet.engine.request import ModelInfo
from trivet.errors import EngineError, RequestError
from trivet.sampling.params import SamplingParams
from trivet.text.chat_template import ChatTemplate
from trivet.text.tokenizer import Tokenizer

T = TypeVar("T")
Prompt = str | list[int] | dict[str, Any]
"""Text, token ids, or vLLM's `{"prompt": text}` or `{"prompt_token_ids": ids}`."""
Message = dict[str, Any]

log = logging.getLogger(__name__)


class LLM:
    """Generates text from this program.

        llm = LLM(model="model.gguf")
        outputs = llm.generate(["Once upon a time"], SamplingParams(temperature=0, max_tokens=40))

    Keywords are those of `EngineArgs`. Raises ModelError when the model cannot be loaded. Use it as a context manager,
    or `close` it, to free its threads and memory early.
    """

    def __init__(self, model: str | None = None, *, engine_args: EngineArgs | None = None, **kwargs: Any) -> None:
        if engine_args is None:
            engine_args = EngineArgs(model=model, **kwargs)
        elif model is not None or kwargs:
            raise TypeError("give engine_args or the arguments themselves, not both")
        # One program's own list of prompts is never too long: nobody else waits.
        self._llm = AsyncLLM(dataclasses.replace(engine_args, max_num_queued_reqs=sys.maxsize))
        self._ids = itertools.count()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="trivet-llm", daemon=True)
        thread.start()
        self._loop = loop
        self._finalizer = weakref.finalize(self, _shut_down, self._llm, loop, thread)
        try:
            self._run(self._llm.start())
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLM:
        return cls(engine_args=engine_args)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine and free its memory; further calls are errors."""
        self._finalizer()

    def get_tokenizer(self) -> Tokenizer:
        return self._llm.tokenizer

    @property
    def info(self) -> ModelInfo:
        """The model's sizes and limits, as the engine runs it."""
        return self._llm.info

    @property
    def recommended_params(self) -> dict[str, Any]:
        """What the model's `generation_config.json` says, as keywords of SamplingParams."""
        return self._llm.recommended_params

    def get_default_sampling_params(self) -> SamplingParams:
        """vLLM's defaults, changed by what the model's makers recommend."""
        return SamplingParams(**self.recommended_params)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, all at once; outputs are in their order.

        sampling_params: one for all, or one for each prompt; None is `get_default_sampling_params()`.
        use_tqdm: show a progress bar on stderr when it takes more than a second.
        priority: a number for each prompt; lower runs first.

        Raises RequestError for an invalid prompt, before anything runs. A prompt at which the engine fails has
        finish_reason "error"; EngineError is raised when the engine is gone.
        """
        return self._complete(self._requests(_listed(prompts), sampling_params, priority), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several at once; a conversation is a list of {"role", "content"}.

        chat_template: a Jinja template to use instead of the model's. continue_final_message: go on where the last
        message ends. The rest is as in `generate`.
        """
        one = bool(messages) and isinstance(messages[0], dict)
        conversations = cast(Sequence[Sequence[Message]], [messages] if one else messages)
        template = ChatTemplate(chat_template, self._llm.tokenizer) if chat_template else None
        if continue_final_message:
            chat_template_kwargs = {**(chat_template_kwargs or {}), "continue_final_message": True}
        prompts: list[Prompt] = [
            self._llm.render_chat(
                list(conversation), tools, add_generation_prompt, template, **(chat_template_kwargs or {})
            )
            for conversation in conversations
        ]
        requests = self._requests(prompts, sampling_params)
        for request in requests:
            request.add_special_tokens = False
        return self._complete(requests, use_tqdm)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, add_special_tokens: bool = True
    ) -> Iterator[RequestOutput]:
        """Complete one prompt and yield what is new as it comes; closing the iterator cancels."""
        [request] = self._requests([prompt], sampling_params)
        request.add_special_tokens = add_special_tokens
        outputs = self._llm.generate(request)

        async def following() -> RequestOutput | None:
            return await anext(outputs, None)

        try:
            while (output := self._run(following())) is not None:
                yield output
        except GeneratorExit:
            if self._finalizer.alive:
                self._run(outputs.aclose())
            raise

    def render_chat(self, messages: Sequence[Message], **kwargs: Any) -> str:
        """The prompt that `chat` makes of a conversation. Raises RequestError when the model has no template."""
        return self._llm.render_chat(list(messages), **kwargs)

    def _requests(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None = None,
    ) -> list[GenerateRequest]:
        if params is None:
            params = self.get_default_sampling_params()
        if isinstance(params, SamplingParams):
            params = [params] * len(prompts)
        for name, values in (("sampling_params", params), ("priority", priority)):
            if values is not None and len(values) != len(prompts):
                raise RequestError(f"{len(prompts)} prompts but {len(values)} {name}: give one for each", name)
        return [
            GenerateRequest(
                prompt=_plain(prompt),
                params=params[i],
                request_id=str(next(self._ids)),
                priority=priority[i] if priority else 0,
            )
            for i, prompt in enumerate(prompts)
        ]

    def _complete(self, requests: list[GenerateRequest], use_tqdm: bool) -> list[RequestOutput]:
        return self._run(self._complete_all(requests, use_tqdm))

    async def _complete_all(self, requests: list[GenerateRequest], use_tqdm: bool) -> list[RequestOutput]:
        jobs = [await self._llm.prepare(request) for request in requests]
        with Progress(len(jobs), enabled=use_tqdm) as progress:

            async def finish(job: Job) -> RequestOutput:
                output = await self._finish(job)
                progress.advance(sum(len(completion.token_ids) for completion in output.outputs))
                return output

            tasks = [asyncio.create_task(finish(job)) for job in jobs]
            try:
                return [await task for task in tasks]
            finally:
                for task in tasks:
                    task.cancel()

    async def _finish(self, job: Job) -> RequestOutput:
        """A request that fails alone must not cost the others their work."""
        try:
            return await self._llm.finish(job)
        except EngineError as error:
            if not self._llm.healthy():
                raise
            log.error("request %s failed: %s", job.request.request_id, error)
            output = job.output(job.completions, deltas=False)
            for completion in output.outputs:
                completion.finish_reason = completion.finish_reason or "error"
            output.finished = True
            return output

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop's thread and wait; an interrupt here cancels it there."""
        if not self._finalizer.alive:
            work.close()
            raise EngineError("this LLM is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _shut_down(llm: AsyncLLM, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    asyncio.run_coroutine_threadsafe(llm.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt, or several, as a list: a list of numbers is one prompt of tokens."""
    one = isinstance(prompts, str | dict) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return cast(list[Prompt], [prompts] if one else list(prompts))


def _plain(prompt: Prompt) -> str | list[int]:
    """Raises RequestError when it is none of the forms of `Prompt`."""
    plain: Any = prompt
    if isinstance(prompt, dict) and prompt.keys() <= {"prompt", "prompt_token_ids"}:
        plain = prompt.get("prompt_token_ids", prompt.get("prompt"))
    if isinstance(plain, str) or (isinstance(plain, list) and all(isinstance(token, int) for token in plain)):
        return plain
    forms = "text, a list of token ids, or a dict with 'prompt' or 'prompt_token_ids'"
    raise RequestError(f"a prompt is {forms}, got {prompt!r:.80}", "prompt")
