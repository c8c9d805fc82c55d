"""The page at GET /, and the facts it shows."""

from __future__ import annotations

from importlib import resources

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from trivet import __version__
from trivet.server.service import Service

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Facts(msgspec.Struct, kw_only=True):
    """chat: the model was made for it, as a chat template shows. cache_tokens: what the KV cache holds."""

    version: str
    model: str
    architecture: str
    device: str
    dtype: str
    max_model_len: int
    cache_tokens: int
    weight_bytes: int
    cache_bytes: int
    chat: bool
    needs_key: bool


def routes(service: Service) -> list[Route]:
    page = resources.files(__package__).joinpath("index.html").read_text(encoding="utf-8")

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    async def facts(request: Request) -> Response:
        info = service.llm.info
        body = Facts(
            version=__version__,
            model=service.name,
            architecture=info.architecture,
            device=info.device,
            dtype=info.dtype,
            max_model_len=info.max_model_len,
            cache_tokens=info.num_blocks * info.block_size,
            weight_bytes=info.weight_bytes,
            cache_bytes=info.cache_bytes,
            chat=bool(service.llm.args.chat_template or service.llm.tokenizer.chat_template),
            needs_key=bool(service.options.api_keys),
        )
        return Response(msgspec.json.encode(body), media_type="application/json")

    return [Route("/", index, methods=["GET"]), Route("/web/facts.json", facts, methods=["GET"])]
