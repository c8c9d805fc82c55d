"""An engine for programs without an event loop: vLLM's `LLMEngine`."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.job import Job
from trivet.api.model_config import ModelConfig
from trivet.api.outputs import RequestOutput
from trivet.api.prompts import Prompt
from trivet.api.refusals import refuses
from trivet.errors import EngineError, OverloadedError, RequestError
from trivet.sampling.params import SamplingParams
from trivet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from trivet.metrics.reader import Metric

T = TypeVar("T")


@refuses(
    *("sleep", "wake_up", "release_kv_cache_memory", "add_lora", "remove_lora", "list_loras", "pin_lora"),
    *("collective_rpc", "apply_model", "start_profile", "stop_profile"),
)
class LLMEngine:
    """Runs an `AsyncLLM` on a thread of its own.

        engine.add_request("1", "Once upon a time", SamplingParams(max_tokens=40))
        while engine.has_unfinished_requests():
            for output in engine.step():
                ...

    Requests run by themselves once they are added; `step` collects what they have brought. Raises ModelError when the
    model cannot be loaded.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        # One program's own requests are never too many: nobody else waits.
        self.llm = AsyncLLM(dataclasses.replace(engine_args, max_num_queued_reqs=sys.maxsize))
        self._news: SimpleQueue[RequestOutput | Exception] = SimpleQueue()
        self._unfinished = 0
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="trivet-llm", daemon=True)
        thread.start()
        self._loop = loop
        self._finalizer = weakref.finalize(self, _shut_down, self.llm, loop, thread)
        try:
            self.run(self.llm.start())
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        usage_context: Any = None,
        stat_loggers: Any = None,
        enable_multiprocessing: bool = False,
    ) -> Self:
        """Load a model. stat_loggers are refused; usage_context and enable_multiprocessing change nothing."""
        if stat_loggers:
            raise RequestError("stat_loggers are not supported", "stat_loggers")
        return cls(engine_args)

    @property
    def alive(self) -> bool:
        """Whether it has not been closed."""
        return self._finalizer.alive

    def close(self) -> None:
        """Stop the engine and free its memory; further calls are errors."""
        self._finalizer()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop's thread and wait; an interrupt here cancels it there. Raises EngineError when closed."""
        if not self.alive:
            work.close()
            raise EngineError("this LLM is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Any = None,
        priority: int = 0,
        session_id: str | None = None,
        prompt_text: str | None = None,
        kv_hints: Any = None,
    ) -> str:
        """Start a request and return its id. Raises RequestError. session_id and kv_hints change nothing here."""
        request = self.llm.request(
            prompt,
            params,
            request_id,
            prompt_text=prompt_text,
            priority=priority,
            tokenization_kwargs=tokenization_kwargs,
            lora_request=lora_request,
            trace_headers=trace_headers,
        )

        async def start() -> None:
            job = await self.llm.prepare(request)
            if arrival_time is not None:
                job.metrics.arrival_time = arrival_time
            task = asyncio.create_task(self._follow(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.run(start())
        self._unfinished += 1
        return request_id

    def step(self) -> list[RequestOutput]:
        """Wait for news of the requests, and return all there are; nothing at once when no request is unfinished.

        A request at which the engine fails, or that finds `max_num_queued_tokens` waiting, ends with the finish reason
        "error"; EngineError is raised when the engine is gone.
        """
        outputs: list[RequestOutput] = []
        while self._unfinished and not (outputs and self._news.empty()):
            if not self.alive:
                raise EngineError("this LLM is closed")
            news = self._news.get()
            if isinstance(news, Exception):
                self._unfinished = 0
                raise news
            self._unfinished -= news.finished
            outputs.append(news)
        return outputs

    def abort_request(self, request_ids: Iterable[str]) -> None:
        """End requests; their last outputs have the finish reason "abort"."""
        self.run(self.llm.abort(request_ids))

    def has_unfinished_requests(self) -> bool:
        return self._unfinished > 0

    def get_num_unfinished_requests(self) -> int:
        return self._unfinished

    @property
    def model_config(self) -> ModelConfig:
        return self.llm.model_config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.llm.tokenizer

    def get_tokenizer(self) -> Tokenizer:
        return self.llm.tokenizer

    def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """See `AsyncLLM.reset_prefix_cache`."""
        return self.run(self.llm.reset_prefix_cache())

    def reset_mm_cache(self) -> None:
        """Nothing to do: there is no such cache."""

    def reset_encoder_cache(self) -> None:
        """Nothing to do: there is no such cache."""

    def is_sleeping(self) -> bool:
        return False

    def get_metrics(self) -> list[Metric]:
        """What the engine counts of itself, by vLLM's names."""
        from trivet.metrics.reader import snapshot

        return snapshot(self.llm.model_names[0], self.llm.info, self.llm.stats())

    def do_log_stats(self) -> None:
        self.run(self.llm.do_log_stats())

    async def _follow(self, job: Job) -> None:
        try:
            async for output in self.llm.follow(job):
                self._news.put(output)
        except (EngineError, OverloadedError) as error:
            self._news.put(job.failed(error) if self.llm.healthy() else error)
        except Exception as error:
            self._news.put(error)


def _shut_down(llm: AsyncLLM, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    asyncio.run_coroutine_threadsafe(llm.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
