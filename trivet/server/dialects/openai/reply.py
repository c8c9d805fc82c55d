"""What every response of one request repeats, and the count of its tokens."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request

from trivet import __version__
from trivet.api.outputs import RequestOutput, RequestStateStats
from trivet.server.dialects.openai.answers import PromptTokensDetails, RequestMetrics, Usage
from trivet.server.dialects.openai.requests import model_name
from trivet.server.dialects.openai.schemas import GenerationBody
from trivet.server.service import Service


def fingerprint(service: Service) -> str:
    """Names this version running this model with this set-up."""
    digest = zlib.crc32(msgspec.json.encode(service.llm.info))
    return f"trivet-{__version__}-{digest:08x}"


@dataclass(slots=True)
class Reply:
    """Head fields of a request's responses, and its tokens so far (over all its prompts).

    usage_at_end: a stream ends with a chunk of nothing but the usage. usage_always: all chunks have it.
    show_metrics: tell what it took, where it is one sequence.
    """

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))
    show_cached: bool = False
    show_metrics: bool = False
    usage_at_end: bool = False
    usage_always: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    _seen: set[str] = field(default_factory=set)
    _times: RequestStateStats | None = None

    @classmethod
    def to(cls, service: Service, request: Request, body: GenerationBody, prefix: str) -> Reply:
        options = body.stream_options
        forced = service.options.force_include_usage
        at_end = forced or bool(options and options.include_usage)
        return cls(
            id=f"{prefix}-{_request_id(request, body)}",
            model=model_name(service, body.model),
            fingerprint=fingerprint(service),
            show_cached=service.options.prompt_tokens_details,
            show_metrics=service.options.request_metrics and (body.n or 1) == 1,
            usage_at_end=at_end,
            usage_always=forced or (at_end and bool(options and options.continuous_usage_stats)),
        )

    @property
    def head(self) -> dict[str, Any]:
        """The fields that begin every body."""
        return {"id": self.id, "created": self.created, "model": self.model}

    def signature(self, finish_reason: str | None) -> str | UnsetType:
        """The fingerprint is on the last chunk of a choice, unless the usage comes after it."""
        return self.fingerprint if finish_reason is not None and not self.usage_at_end else UNSET

    def count(self, output: RequestOutput) -> None:
        """Take in a delta, or a whole, of one prompt; the prompt itself counts with the first."""
        if output.request_id not in self._seen:
            self._seen.add(output.request_id)
            self.prompt_tokens += len(output.prompt_token_ids)
            self.cached_tokens += output.num_cached_tokens
        self._times = output.metrics
        self.completion_tokens += sum(len(sequence.token_ids) for sequence in output.outputs)

    def usage(self, *, in_stream: bool) -> Usage:
        """Nulls are written out in a whole response, and left out in a stream."""
        empty = UNSET if in_stream else None
        return Usage(
            self.prompt_tokens,
            self.prompt_tokens + self.completion_tokens,
            self.completion_tokens,
            PromptTokensDetails(self.cached_tokens, empty, empty) if self.show_cached else empty,
            empty,
        )

    def metrics(self) -> RequestMetrics | None:
        """By vLLM's definitions."""
        times = self._times
        if not self.show_metrics or len(self._seen) != 1 or times is None or not times.first_token_ts:
            return None
        tokens = times.num_generation_tokens
        decode, inference = times.last_token_ts - times.first_token_ts, times.last_token_ts - times.scheduled_ts
        return RequestMetrics(
            time_to_first_token_ms=(times.first_token_ts - times.scheduled_ts) * 1e3,
            generation_time_ms=decode * 1e3,
            queue_time_ms=(times.scheduled_ts - times.queued_ts) * 1e3,
            mean_itl_ms=decode / (tokens - 1) * 1e3 if tokens > 1 else None,
            tokens_per_second=tokens / inference if inference > 0 else None,
        )


def _request_id(request: Request, body: GenerationBody) -> str:
    """That of the header goes before that of the body."""
    made: str = request.state.request_id
    return made if made == request.headers.get("x-request-id") else body.request_id or made
