"""The server's load in a response's header, for balancers that ask for it (ORCA, as vLLM has it)."""

from __future__ import annotations

import json

from starlette.requests import Request

from trivet.server.service import Service

ASKED = "endpoint-load-metrics-format"
TOLD = "endpoint-load-metrics"


def load_header(service: Service, request: Request) -> dict[str, str]:
    """Empty where nobody asks for it, in `text` or `json`."""
    layout = request.headers.get(ASKED, "").lower()
    if layout not in ("text", "json"):
        return {}
    stats = service.llm.stats()
    metrics = {
        "num_requests_waiting": float(stats.waiting),
        "kv_cache_usage_perc": stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0,
    }
    if layout == "json":
        return {TOLD: f"JSON {json.dumps({'named_metrics': metrics})}"}
    return {TOLD: "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in metrics.items())}
