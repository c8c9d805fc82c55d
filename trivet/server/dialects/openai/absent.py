"""vLLM's routes that have nothing behind them here: 404, as where vLLM serves without them, and why."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.endpoint import Handler, Operation
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

ABSENT: dict[str, dict[str, tuple[str, ...]]] = {
    "the model generates text; embeddings, classes and scores are made by pooling models": {
        "POST": (
            *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"),
            *("/rerank", "/v1/rerank", "/v2/rerank", "/generative_scoring"),
        )
    },
    "the model takes text only, no speech": {"POST": ("/v1/audio/transcriptions", "/v1/audio/translations")},
    "adapters (LoRA) cannot be loaded yet": {"POST": ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")},
    "the engine cannot be put to sleep; it uses no processor time while it has nothing to do": {
        "POST": ("/sleep", "/wake_up", "/release_kv_cache_memory", "/pause", "/resume"),
        "GET": ("/is_sleeping", "/is_paused"),
    },
    "a served engine's caches cannot be emptied; a cache_salt keeps a request from finding others' prefixes": {
        "POST": ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
    },
    "an engine's inside cannot be reached from outside": {
        "POST": ("/collective_rpc", "/start_profile", "/stop_profile", "/abort_requests"),
        "GET": ("/server_info", "/tokenizer_info"),
    },
    "prompts and answers are not taken apart": {
        "POST": (
            *("/inference/v1/generate", "/v1/chat/completions/render", "/v1/completions/render"),
            *("/v1/chat/completions/derender", "/v1/completions/derender"),
        )
    },
}
"""Why, and what: methods and paths."""


def _refusal(why: str) -> Handler:
    async def refuse(service: Service, request: Request) -> Response:
        raise Problem(Kind.NOT_FOUND, f"{request.url.path} is not supported by this server: {why}")

    refuse.__doc__ = f"Not supported: {why}."
    return refuse


def _operations() -> Iterable[Operation]:
    for why, methods in ABSENT.items():
        refuse = _refusal(why)
        for method, paths in methods.items():
            yield from (Operation(path, refuse, method) for path in paths)


OPERATIONS = list(_operations())
