"""What happens to one request of the engine's."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

from trivet.api.outputs import RequestOutput, RequestStateStats
from trivet.api.request import GenerateRequest
from trivet.errors import OverloadedError, RequestError

if TYPE_CHECKING:
    from trivet.metrics.metrics import Metrics


class RequestWatch:
    """Follows a request from its arrival to its end, whatever that is, and counts what happens.

    What is refused before, or by the engine as invalid, is counted where it is answered.

    arrival: of `time.monotonic`. prompt_tokens, cached_tokens and times are known from the first token on.
    first_token, seconds: since its arrival; 0.0 while there was none, and while it runs. finish_reasons: of its
    sequences, in the order of their ends.
    """

    def __init__(self, metrics: Metrics, request: GenerateRequest) -> None:
        self._metrics = metrics
        self.request = request
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.times: RequestStateStats | None = None
        self.first_token = 0.0
        self.seconds = 0.0
        self.finish_reasons: list[str] = []
        self.arrival = time.monotonic()
        self._last_tokens: dict[int, float] = {}
        self._generated: Counter[int] = Counter()
        self._finished = False

    @property
    def generated_tokens(self) -> int:
        return self._generated.total()

    def __enter__(self) -> RequestWatch:
        return self

    def output(self, output: RequestOutput) -> None:
        """Count what a delta brings. The prompt counts once it has been processed, that is at the first token."""
        now = time.monotonic()
        metrics = self._metrics
        self.times = output.metrics
        for sequence in output.outputs:
            if not sequence.token_ids:
                continue
            if not self._last_tokens:
                self.first_token = now - self.arrival
                metrics.observe("first_token", self.first_token)
                self._count_prompt(output)
            previous = self._last_tokens.get(sequence.index)
            if previous is not None:
                metrics.observe("inter_token", now - previous)
            self._last_tokens[sequence.index] = now
            self._generated[sequence.index] += len(sequence.token_ids)
            metrics.count("generation_tokens", len(sequence.token_ids))
        for sequence in output.outputs:
            if sequence.finish_reason is not None:
                self._end_sequence(sequence.finish_reason)
        if output.finished:
            metrics.count("success")
            self._finished = True
            self._observe_request(now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self.arrival
        if self._finished:
            return
        match error:
            case RequestError():
                return
            case OverloadedError():
                self._metrics.count_overload()
            case Exception():
                self._metrics.count("failure", label="generation")
                self._end_sequence("error")
            case _:
                self._metrics.count("failure", label="dropped")
                self._end_sequence("abort")

    def _end_sequence(self, reason: str) -> None:
        self.finish_reasons.append(reason)
        self._metrics.count("finished", label=reason)

    def _count_prompt(self, output: RequestOutput) -> None:
        metrics = self._metrics
        self.prompt_tokens, self.cached_tokens = len(output.prompt_token_ids), output.num_cached_tokens
        computed = self.prompt_tokens - self.cached_tokens
        metrics.count("prompt_tokens", self.prompt_tokens)
        metrics.count("prompt_tokens_cached", self.cached_tokens)
        metrics.count("prompt_tokens_cached_by_source", self.cached_tokens, label="device")
        metrics.count("prompt_tokens_computed", computed)
        metrics.count("prompt_tokens_by_source", computed, label="local_compute")
        metrics.count("prompt_tokens_by_source", self.cached_tokens, label="local_cache_hit")

    def _observe_request(self, now: float) -> None:
        metrics, params = self._metrics, self.request.params
        longest = max(self._generated.values(), default=0)
        metrics.observe("latency", now - self.arrival)
        metrics.observe("prompt_length", self.prompt_tokens)
        metrics.observe("prompt_computed", self.prompt_tokens - self.cached_tokens)
        metrics.observe("generation_length", self.generated_tokens)
        metrics.observe("longest_choice", longest)
        metrics.at_least("longest", self.prompt_tokens + longest)
        metrics.observe("choices", params.n)
        if params.max_tokens is not None:
            metrics.observe("max_tokens", params.max_tokens)
        if self.times is not None:
            metrics.observe("preemptions", self.times.num_preemptions)
            if self.generated_tokens:
                self._observe_phases(self.times)

    def _observe_phases(self, times: RequestStateStats) -> None:
        metrics, generated = self._metrics, self.generated_tokens
        prefill = times.first_token_ts - times.scheduled_ts
        decode = times.last_token_ts - times.first_token_ts
        metrics.observe("queue", times.scheduled_ts - times.queued_ts)
        metrics.observe("prefill", prefill)
        metrics.observe("decode", decode)
        metrics.observe("inference", prefill + decode)
        metrics.observe("mean_time_per_token", (prefill + decode) / generated)
        if generated > 1:
            metrics.observe("time_per_output_token", decode / (generated - 1))
        metrics.count("prompt_seconds", prefill)
        metrics.count("generation_seconds", decode)
