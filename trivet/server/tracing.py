"""OpenTelemetry traces: a span for each HTTP request and, in it, for what the engine did. Needs `trivet[otel]`.

The SDK's own variables hold: OTEL_EXPORTER_OTLP_…, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trivet.errors import TrivetError
from trivet.server.exchange import Exchange
from trivet.server.options import ServerOptions

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer as OtelTracer

    from trivet.metrics.watch import RequestWatch

PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


class TracingError(TrivetError):
    """Traces cannot be sent as asked."""


def make_exporter(endpoint: str) -> SpanExporter:
    """One for OTLP over gRPC, or over HTTP where the variable says so. Raises TracingError."""
    protocol = os.environ.get(PROTOCOL, "grpc")
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

            return grpc.OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
        if protocol == "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

            return http.OTLPSpanExporter(endpoint=endpoint)
    except ImportError as error:
        raise missing(error) from None
    raise TracingError(f"{PROTOCOL} must be grpc or http/protobuf, got {protocol!r}")


def missing(error: ImportError) -> TracingError:
    return TracingError(f"traces need packages that are not there ({error.name}): pip install 'trivet[otel]'")


def make_tracer(options: ServerOptions, model_name: str) -> Tracer | None:
    """None where no traces are wanted. Raises TracingError."""
    if not options.otlp_traces_endpoint:
        return None
    return Tracer(make_exporter(options.otlp_traces_endpoint), options.otlp_service_name, model_name)


def check_tracing(options: ServerOptions) -> None:
    """Raises TracingError when traces are wanted and cannot be made."""
    if (tracer := make_tracer(options, "")) is not None:
        tracer.close()


class Tracer:
    """Makes spans and hands them to an exporter, a thread of which sends them. Raises TracingError."""

    def __init__(self, exporter: SpanExporter, service_name: str | None, model_name: str) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise missing(error) from None
        name = service_name or os.environ.get("OTEL_SERVICE_NAME", "trivet")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("trivet")
        self._model_name = model_name

    def begin(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        """Give an exchange its span, a child of the client's where it says which (traceparent, tracestate)."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        exchange.span = self._tracer.start_span(exchange.method, parent, SpanKind.SERVER)

    def end(self, exchange: Exchange) -> None:
        """End an exchange's span, with children for what was tokenised and for each run of the engine."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        span = exchange.span
        assert span is not None
        if span.is_recording():
            spans = _Spans(self._tracer, time.time_ns() - time.monotonic_ns())
            inside = set_span_in_context(span)
            for times in exchange.encodings:
                spans.add("tokenise", inside, times)
            for run in exchange.runs:
                spans.add_run(run, inside, self._model_name)
            span.update_name(f"{exchange.method} {exchange.route}")
            span.set_attributes(
                {
                    "http.request.method": exchange.method,
                    "http.response.status_code": exchange.status,
                    "http.route": exchange.route,
                    "url.path": exchange.path,
                    "http.request.header.x-request-id": exchange.request_id,
                }
            )
            if exchange.status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what there is left."""
        self._provider.shutdown()


@dataclass(frozen=True, slots=True)
class _Spans:
    """Makes spans of what is over. epoch: nanoseconds from 1970 to the zero of `time.monotonic`."""

    tracer: OtelTracer
    epoch: int

    def add(self, name: str, parent: Context, times: tuple[float, float]) -> None:
        """times: begin and end, in seconds of `time.monotonic`."""
        self.tracer.start_span(name, parent, start_time=self._at(times[0])).end(self._at(times[1]))

    def add_run(self, run: RequestWatch, parent: Context, model_name: str) -> None:
        """vLLM's span of a request, and what it spent its time on."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        span = self.tracer.start_span("llm_request", parent, SpanKind.SERVER, start_time=self._at(run.arrival))
        span.set_attributes({**attributes(run), "gen_ai.response.model": model_name})
        if "error" in run.finish_reasons:
            span.set_status(StatusCode.ERROR)
        if (times := run.times) is not None and times.first_token_ts:
            inside = set_span_in_context(span)
            self.add("queue", inside, (times.queued_ts, times.scheduled_ts))
            self.add("prefill", inside, (times.scheduled_ts, times.first_token_ts))
            self.add("decode", inside, (times.first_token_ts, times.last_token_ts))
        span.end(self._at(run.arrival + run.seconds))

    def _at(self, moment: float) -> int:
        return self.epoch + int(moment * 1e9)


def attributes(run: RequestWatch) -> dict[str, Any]:
    """Those that vLLM gives, by its names of OpenTelemetry's conventions for generative AI; seconds."""
    params = run.request.params
    found: dict[str, Any] = {
        "gen_ai.request.id": run.request.request_id,
        "gen_ai.request.n": params.n,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.response.finish_reasons": run.finish_reasons,
        "gen_ai.usage.prompt_tokens": run.prompt_tokens,
        "gen_ai.usage.completion_tokens": run.generated_tokens,
        "gen_ai.usage.num_sequences": params.n,
        "gen_ai.latency.e2e": run.seconds,
    }
    if (times := run.times) is not None and times.first_token_ts:
        found |= {
            "gen_ai.latency.time_to_first_token": run.first_token,
            "gen_ai.latency.time_in_queue": times.scheduled_ts - times.queued_ts,
            "gen_ai.latency.time_in_model_prefill": times.first_token_ts - times.scheduled_ts,
            "gen_ai.latency.time_in_model_decode": times.last_token_ts - times.first_token_ts,
            "gen_ai.latency.time_in_model_inference": times.last_token_ts - times.scheduled_ts,
        }
    return {name: value for name, value in found.items() if value is not None}
