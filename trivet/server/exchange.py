"""One HTTP request, from its arrival to its end: its id, and what is told of it in the log, metrics and traces."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trivet.logs import request_id
from trivet.metrics.watch import RequestWatch

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from trivet.server.service import Service

logger = logging.getLogger("trivet.access")
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
"""A client may call others as it likes; they must not become values of labels."""
UNCOUNTED = ("/metrics", "/health", "/load", "/ping", "/version", "/server_info")
"""Routes that vLLM's HTTP metrics leave out; nor are they traced."""


@dataclass(slots=True)
class Exchange:
    """path: percent-encoded, as it was asked for; route: as it was mounted, "none" where there is nothing.
    status: 500 until an answer begins, as what fails before gets that. runs: the engine's, that it led to.
    encodings: when texts were tokenised, in seconds of `time.monotonic`. sizes: bytes of the bodies there and back, as
    far as their headers tell.
    """

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    runs: list[RequestWatch] = field(default_factory=list)
    encodings: list[tuple[float, float]] = field(default_factory=list)
    span: Span | None = None
    route: str = "none"
    status: int = 500
    sizes: list[int] = field(default_factory=lambda: [0, 0])


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The exchange in which this code runs."""


class Exchanges:
    """Middleware that begins and ends every exchange. The client's own `X-Request-Id` is its id, or else a new one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        method = scope["method"] if scope["method"] in _METHODS else "other"
        exchange = Exchange(name, method, quote(scope["path"]))
        exchange.sizes[0] = _length(headers)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._service.tracer is not None and path not in UNCOUNTED:
            self._service.tracer.begin(exchange, headers)
        # They end with the task, which the server makes for each request.
        current.set(exchange)
        request_id.set(exchange.request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                # OpenAI's and most other clients read the first, Anthropic's the second.
                answer.update({"X-Request-Id": exchange.request_id, "Request-Id": exchange.request_id})
                exchange.status = message["status"]
                exchange.sizes[1] = _length(answer)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if "route" in scope:
                exchange.route = scope["route"].path
            self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        service, method = self._service, exchange.method
        seconds = time.perf_counter() - exchange.started
        if exchange.route not in UNCOUNTED:
            service.metrics.count_http(method, exchange.route, exchange.status, seconds, exchange.sizes)
        if exchange.span is not None and service.tracer is not None:
            service.tracer.end(exchange)
        if service.options.log_requests:
            facts = timings(exchange.runs)
            shown = [f"{name}={v:.3f}" if isinstance(v, float) else f"{name}={v}" for name, v in facts.items()]
            facts |= {"method": method, "path": exchange.path, "status": exchange.status, "seconds": seconds}
            words = [method, exchange.path, str(exchange.status), f"{seconds:.3f}s", *shown, exchange.request_id]
            logger.info("%s", " ".join(words), extra={"fields": facts})


def timings(runs: list[RequestWatch]) -> dict[str, Any]:
    """What is told of an exchange's runs: sums of tokens, the longest times (seconds), how sequences ended."""
    if not runs:
        return {}
    facts: dict[str, Any] = {
        "prompt_tokens": sum(run.prompt_tokens for run in runs),
        "cached_tokens": sum(run.cached_tokens for run in runs),
        "generated_tokens": sum(run.generated_tokens for run in runs),
        "finish_reason": ",".join(reason for run in runs for reason in run.finish_reasons),
    }
    times = [run.times for run in runs if run.times is not None and run.times.first_token_ts]
    if times:
        facts["queue_seconds"] = max(one.scheduled_ts - one.queued_ts for one in times)
        facts["prefill_seconds"] = max(one.first_token_ts - one.scheduled_ts for one in times)
        facts["decode_seconds"] = max(one.last_token_ts - one.first_token_ts for one in times)
        facts["first_token_seconds"] = min(run.first_token for run in runs if run.first_token)
    return facts


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 16 else 0
