"""GET /models, and what answers say of the model and the build."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet import __version__
from trivet.server.service import Service

BUILD = 10000
"""Clients read a build's number to know what it can do; this is one of the compatibility reference's time."""

VOCAB_TYPES = {"spm": 1, "bpe": 2, "wpm": 3, "ugm": 4}
"""llama.cpp's numbers."""


def build_info() -> str:
    """llama.cpp's form, b<number>-<commit>."""
    return f"b{BUILD}-trivet-{__version__}"


def model_name(service: Service) -> str:
    """The first of the model's names in alphabetical order."""
    return min(service.names)


async def models(service: Service, request: Request) -> Response:
    """The one model that is served, in the forms of Ollama and OpenAI."""
    return Response(msgspec.json.encode(listing(service)), media_type="application/json")


def listing(service: Service) -> dict[str, Any]:
    info, name = service.llm.info, model_name(service)
    description = {
        "name": name,
        "model": name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": "",
        "tags": [""],
        "capabilities": ["completion"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "",
            "families": [""],
            "parameter_size": "",
            "quantization_level": "",
        },
    }
    entry = {
        "id": name,
        "aliases": sorted(service.names),
        "tags": [],
        "object": "model",
        "created": service.started,
        "owned_by": "llamacpp",
        "meta": {
            "vocab_type": VOCAB_TYPES[service.llm.tokenizer.kind],
            "n_vocab": info.vocab_size,
            "n_ctx": info.max_model_len,
            "n_ctx_train": info.context_length,
            "n_embd": info.hidden_size,
            "n_params": info.num_parameters,
            "size": info.weight_bytes,
            "ftype": info.dtype,
        },
    }
    return {"models": [description], "object": "list", "data": [entry]}
