"""What all dialects stand on: the model behind the port, and one way to ask it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from trivet.api.outputs import RequestOutput
from trivet.api.request import GenerateRequest
from trivet.errors import EngineError, OverloadedError
from trivet.metrics.metrics import Metrics
from trivet.server import exchange, tracing
from trivet.server.caller import current_caller
from trivet.server.errors import SHUTTING_DOWN, Kind, Problem
from trivet.server.options import ServerOptions
from trivet.text.pipeline import LONG_TEXT

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM

T = TypeVar("T")

LONG_CONVERSATION = 200
"""Messages from which on a template is applied in a thread."""


class Service:
    """One model, its limits and its metrics. `llm` must have been started. Raises TracingError, and ModelError for a
    chat template that is not valid.
    """

    def __init__(self, llm: AsyncLLM, options: ServerOptions) -> None:
        self.llm = llm
        _ = llm.chat_template  # no request shall be the first to compile it
        self.options = options
        self.names = llm.model_names
        self.started = int(time.time())
        self.draining = False
        """The server is about to end: what runs may finish, nothing is begun."""
        cache_config = vars(llm.args) | {
            "cache_dtype": llm.args.kv_cache_dtype,
            "enable_prefix_caching": llm.args.enable_prefix_caching is not False,
        }
        self.metrics = Metrics(self.names[0], llm.info, self.max_input_tokens, cache_config)
        self.tracer = tracing.make_tracer(options, self.name)
        self._kept: dict[type, Any] = {}

    def kept(self, kind: type[T], make: Callable[[], T]) -> T:
        """The one object of its kind that a dialect keeps here between requests; made when first asked for."""
        if kind not in self._kept:
            self._kept[kind] = make()
        kept: T = self._kept[kind]
        return kept

    def check_open(self) -> None:
        """Refuse a request before work is done for it, where none can be taken. Raises Problem, OverloadedError."""
        if self.draining:
            raise SHUTTING_DOWN
        try:
            self.llm.check_room()
        except OverloadedError:
            self.metrics.count_overload()
            raise

    @property
    def name(self) -> str:
        """What responses call the model."""
        return self.names[0]

    def answers_to(self, name: str) -> bool:
        """Whether requests may call the model so: by a served name, or by the one it has of its own."""
        return name in self.names or name == self.llm.info.name

    @property
    def max_model_len(self) -> int:
        return self.llm.info.max_model_len

    @property
    def max_input_tokens(self) -> int:
        """Of the longest prompt, as TGI's limit has it."""
        most = self.max_model_len - 1
        return min(self.options.max_input_tokens or most, most)

    async def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Text as token ids, long ones in a thread."""
        encode, started = self.llm.tokenizer.encode, time.monotonic()
        if len(text) < LONG_TEXT:
            tokens = encode(text, add_special, parse_special)
        else:
            tokens = await asyncio.to_thread(encode, text, add_special, parse_special)
        if (current := exchange.current.get()) is not None:
            current.encodings.append((started, time.monotonic()))
        return tokens

    async def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None, **variables: Any
    ) -> str:
        """What the model's template makes of a conversation, of a long one in a thread. Raises RequestError."""
        render = self.llm.chat_template.render
        if len(messages) < LONG_CONVERSATION:
            return render(messages, tools, **variables)
        return await asyncio.to_thread(render, messages, tools, **variables)

    def truncate(self, prompt: list[int], length: int) -> list[int]:
        """Keep the last `length` (>= 1) tokens of a prompt, its beginning-of-sequence token among them."""
        if len(prompt) <= length:
            return prompt
        bos = prompt[:1] if prompt[0] == self.llm.tokenizer.bos_id and length > 1 else []
        return bos + prompt[len(prompt) - length + len(bos) :]

    def check_length(self, prompt: list[int], room: int = 1) -> None:
        """Refuse a prompt that leaves no room for an answer of so many tokens."""
        if len(prompt) > self.max_model_len - room:
            raise Problem(
                Kind.PROMPT_TOO_LONG,
                f"the prompt has {len(prompt)} tokens; with at least {room} to generate, the context of "
                f"{self.max_model_len} tokens allows {self.max_model_len - room}",
                "prompt",
                prompt_tokens=len(prompt),
                max_tokens=self.max_model_len,
            )

    def check_count(self, prompts: int, n: int) -> None:
        """Refuse more prompts than one request may have, or more sequences than it may make of them."""
        limit = self.options.max_prompts
        if not 1 <= prompts <= limit:
            raise Problem(Kind.INVALID, f"prompt must hold 1 to {limit} prompts, got {prompts}", "prompt")
        if prompts * n > (most := self.llm.info.max_requests):
            raise Problem(
                Kind.INVALID,
                f"{prompts} prompts and n={n} are {prompts * n} sequences; {most} run or wait at most",
                "n",
            )

    def check_tokens(self, tokens: Sequence[int], name: str) -> None:
        """Refuse ids that are not in the vocabulary; `name` is the field they came in."""
        vocab_size = self.llm.info.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            message = f"token {wrong} is not in the vocabulary of {vocab_size} tokens"
            raise Problem(Kind.INVALID, message, name)

    def count_refusal(self, problem: Problem) -> None:
        """Count a request that was refused as invalid; what the engine refused or failed at, `generate` counts."""
        counted = (Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.ENGINE, Kind.INTERNAL, Kind.UNAUTHORIZED)
        if problem.kind not in counted:
            self.metrics.count("failure", label=problem.failure)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Run a request, counting what happens to it; closing the generator cancels it.

        `request.request_id` may repeat, as clients can choose it. Raises OverloadedError, RequestError, EngineError,
        DeadlineError.
        """
        caller = current_caller()
        request.tenant = caller.tenant
        limits = [each for each in (request.timeout, caller.timeout, self.options.request_timeout) if each]
        request.timeout = min(limits, default=None)
        request.request_id = f"{request.request_id}-{secrets.token_hex(4)}"
        with self.metrics.watch(request) as watch:
            if (current := exchange.current.get()) is not None:
                current.runs.append(watch)
            async with aclosing(self.llm.stream(request)) as outputs:
                async for output in outputs:
                    for sequence in output.outputs:
                        if sequence.finish_reason in ("abort", "error"):
                            raise EngineError("the engine stopped before the request was finished")
                    watch.output(output)
                    yield output
