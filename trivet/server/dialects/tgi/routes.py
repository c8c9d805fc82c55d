"""The routes of TGI's API."""

from __future__ import annotations

from trivet.server.dialects.tgi.chat import chat_completions
from trivet.server.dialects.tgi.cloud import any_request, vertex
from trivet.server.dialects.tgi.completions import completions
from trivet.server.dialects.tgi.generate import generate, generate_stream
from trivet.server.dialects.tgi.info import health, info, models
from trivet.server.dialects.tgi.openai_schemas import ChatBody, CompletionBody
from trivet.server.dialects.tgi.schemas import CompatBody, GenerateBody, VertexBody
from trivet.server.dialects.tgi.tokenize import chat_tokenize, tokenize
from trivet.server.endpoint import Operation

ANY_BODY = CompatBody | ChatBody | CompletionBody
INPUTS = frozenset({"inputs"})

OPERATIONS = [
    # Clients of TGI post to whatever URL they were given; early huggingface_hub did so with chats, too.
    Operation("/", any_request, body=ANY_BODY, generates=True),
    Operation("/v1", any_request, body=ANY_BODY, generates=True),
    Operation("/generate", generate, body=GenerateBody, generates=True),
    Operation("/generate_stream", generate_stream, body=GenerateBody, generates=True),
    Operation("/v1/chat/completions", chat_completions, body=ChatBody, generates=True, pinned=True),
    Operation("/v1/completions", completions, body=CompletionBody, generates=True, pinned=True),
    Operation("/invocations", any_request, body=ANY_BODY, generates=True, keys=INPUTS),
    Operation("/vertex", vertex, body=VertexBody, generates=True),
    Operation("/tokenize", tokenize, body=GenerateBody, keys=INPUTS),
    # TGI asks for no key here; we do, as everywhere that a prompt is worked on.
    Operation("/chat_tokenize", chat_tokenize, body=ChatBody),
    Operation("/v1/models", models, "GET", public=True, pinned=True),
    Operation("/info", info, "GET", public=True),
    Operation("/health", health, "GET", public=True, pinned=True),
    Operation("/ping", health, "GET", public=True, pinned=True),
]
