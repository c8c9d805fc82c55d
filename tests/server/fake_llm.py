"""A real `AsyncLLM` over an engine that always gives the same answer, one byte a token, and fails on demand."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.api.scripted import BOS, EOS, VOCAB, write_byte_tokenizer
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.outputs import RequestOutput
from trivet.api.request import GenerateRequest
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk, TokenLogprob
from trivet.engine.streams import TokenStream
from trivet.errors import OverloadedError

ANSWER = "Lily saw a café.\nShe ran home."
TOKENS = [*ANSWER.encode(), EOS]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
__all__ = ["ANSWER", "BOS", "EOS", "TOKENS", "FakeLLM", "byte_model", "logprob"]


def byte_model(template: str | None = TEMPLATE) -> str:
    """A folder with the byte tokenizer and no weights; it goes when the interpreter does."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    write_byte_tokenizer(Path(folder.name), template)
    return folder.name


class FakeLLM(AsyncLLM):
    """Keywords are those of `FakeEngine`; `requests` holds what the server asked for."""

    def __init__(self, **behaviour: object) -> None:
        self.engine = FakeEngine(**behaviour)
        self.requests: list[GenerateRequest] = []
        super().__init__(EngineArgs(byte_model(), served_model_name="fake"), self.engine)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        self.requests.append(request)
        async with aclosing(super().stream(request)) as outputs:
            async for output in outputs:
                yield output


class FakeEngine:
    """Sequence i of a request is the answer without its first i tokens (modulo their number).

    fail_after: tokens after which the engine fails. delay, load_delay: seconds before each token, before it is ready.
    """

    def __init__(
        self,
        *,
        answer: list[int] = TOKENS,
        fail_after: int | None = None,
        overloaded: bool = False,
        delay: float = 0.0,
        load_delay: float = 0.0,
        max_model_len: int = 256,
    ) -> None:
        self.answer = answer
        self.fail_after, self.overloaded = fail_after, overloaded
        self.delay, self.load_delay = delay, load_delay
        self.alive = True
        self.cancelled = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.info = ModelInfo(
            name="bytes",
            architecture="llama",
            device="cpu (avx2, 2 threads)",
            dtype="f32",
            vocab_size=VOCAB,
            max_model_len=max_model_len,
            num_blocks=64,
            block_size=16,
            max_num_seqs=8,
            max_queue=1024,
            scheduling_policy="priority",
            max_num_batched_tokens=256,
            weight_bytes=1000,
            cache_bytes=4000,
        )

    @property
    def running(self) -> int:
        return len(self.tasks)

    async def start(self) -> None:
        await asyncio.sleep(self.load_delay)

    async def close(self) -> None:
        self.alive = False

    def healthy(self) -> bool:
        return self.alive

    def stats(self) -> EngineStats:
        return EngineStats(running=self.running, blocks_total=64, blocks_used=self.running)

    def check_room(self) -> None:
        if self.overloaded:
            raise OverloadedError("1024 requests are waiting", retry_after=2.5)

    def submit(self, request: EngineRequest) -> TokenStream:
        self.info.check(request)
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue(1)
        task = asyncio.create_task(self._answer(request, queue))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

        def cancel() -> None:
            self.cancelled += 1
            task.cancel()
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(TokenChunk(request_id=request.request_id, finish_reason="abort"))

        return TokenStream(queue, cancel)

    async def _answer(self, request: EngineRequest, queue: asyncio.Queue[TokenChunk]) -> None:
        params, prompt = request.params, request.prompt
        room = self.info.max_model_len - len(prompt)
        limit = min(params.max_tokens or room, room)
        now = time.monotonic()
        begun = {"queued_at": now, "scheduled_at": now, "cached_tokens": len(prompt) // 16}
        if params.prompt_logprobs is not None:
            rest = [logprob(token, params.prompt_logprobs) for token in prompt[1:]]
            begun["prompt_logprobs"] = [None, *rest]
            await asyncio.sleep(0.02)  # Other sequences find the prompt in the cache and are ahead.
        for done in (len(prompt) // 2, len(prompt)) if request.report_progress else ():
            await queue.put(TokenChunk(request_id=request.request_id, prompt_done=done, **begun))
        skipped = int(request.request_id.rpartition("-")[2]) % len(self.answer)
        for made, token in enumerate(self.answer[skipped:], 1):
            await asyncio.sleep(self.delay)
            chunk = TokenChunk(request_id=request.request_id, emitted_at=time.monotonic(), **begun)
            begun = {}
            if self.fail_after == made - 1:
                chunk.finish_reason, chunk.error = "error", "the engine died"
            else:
                chunk.tokens = [token]
                if params.logprobs is not None:
                    chunk.logprobs = [logprob(token, params.logprobs)]
                if token == EOS or token in (params.stop_token_ids or ()):
                    chunk.finish_reason, chunk.stop_token = "stop", token
                elif made == limit:
                    chunk.finish_reason = "length"
            await queue.put(chunk)
            if chunk.finish_reason:
                return


def logprob(token: int, top: int) -> TokenLogprob:
    """The token has rank 2, after the id before it and before those that follow it."""
    ranked = [(token - 1, -0.25), (token, -0.5), *((token + i, -0.5 - i / 4) for i in range(1, 6) if token + i < VOCAB)]
    return TokenLogprob(token, -0.5, 2, ranked[:top])
