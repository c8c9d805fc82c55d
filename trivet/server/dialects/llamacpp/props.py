"""GET and POST /props."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.server.dialects.llamacpp.errors import NotSupported
from trivet.server.dialects.llamacpp.models import build_info, model_name
from trivet.server.dialects.llamacpp.parameters import settings
from trivet.server.dialects.llamacpp.schemas import CompletionBody
from trivet.server.dialects.llamacpp.slots import slots_of
from trivet.server.service import Service


async def props(service: Service, request: Request) -> Response:
    """What the server is and what it does where a request says nothing."""
    return Response(msgspec.json.encode(properties(service)), media_type="application/json")


async def change_props(service: Service, request: Request) -> Response:
    """Accepted, with --props; there is nothing to change."""
    if not service.options.props_endpoint:
        raise NotSupported("This server does not support changing global properties. Start it with `--props`")
    return Response(b'{"success":true}', media_type="application/json")


def properties(service: Service) -> dict[str, Any]:
    llm, options = service.llm, service.options
    template = llm.chat_template
    return {
        "default_generation_settings": {
            "params": settings(service, CompletionBody()).brief(),
            "n_ctx": service.max_model_len,
        },
        "total_slots": len(slots_of(service)),
        "model_alias": model_name(service),
        "model_ftype": llm.info.dtype,
        "model_path": llm.model_path,
        "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": "<__media__>",
        "endpoint_slots": options.slots_endpoint,
        "endpoint_props": options.props_endpoint,
        "endpoint_metrics": options.metrics_endpoint,
        "ui": True,
        "ui_settings": {},
        "chat_template": template.source,
        **({"chat_template_tool_use": template.tool_use_source} if template.tool_use_source else {}),
        "chat_template_caps": template.capabilities,
        "bos_token": llm.tokenizer.names.get("bos_token", ""),
        "eos_token": llm.tokenizer.names.get("eos_token", ""),
        "build_info": build_info(),
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }
