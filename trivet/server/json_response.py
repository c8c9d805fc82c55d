"""A body as JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response


def json_response(body: Any, headers: dict[str, str] | None = None) -> Response:
    """`body`: a struct, or anything else that msgspec encodes."""
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")
