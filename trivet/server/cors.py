"""Which pages of other origins may call from a browser."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from trivet.server.options import ServerOptions

LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def cors(options: ServerOptions) -> Middleware:
    """Answers preflight requests, and marks responses. "localhost" among the origins is every port of this machine."""
    return Middleware(
        CORSMiddleware,
        allow_origins=[origin for origin in options.allowed_origins if origin != "localhost"],
        allow_origin_regex=LOOPBACK if "localhost" in options.allowed_origins else None,
        allow_methods=options.allowed_methods,
        allow_headers=options.allowed_headers,
        allow_credentials=options.allow_credentials,
        expose_headers=["X-Request-Id", "Request-Id"],
    )
