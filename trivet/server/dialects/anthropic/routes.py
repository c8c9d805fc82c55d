"""The routes of Anthropic's Messages API."""

from __future__ import annotations

from trivet.server.dialects.anthropic.messages import count_tokens, messages
from trivet.server.dialects.anthropic.models import model, models
from trivet.server.dialects.anthropic.schemas import CountTokensBody, MessagesBody
from trivet.server.endpoint import Operation

OPERATIONS = [
    Operation("/v1/messages", messages, body=MessagesBody, generates=True),
    Operation("/v1/messages/count_tokens", count_tokens, body=CountTokensBody),
    Operation("/v1/models", models, "GET", header="anthropic-version"),
    Operation("/v1/models/{name:path}", model, "GET", header="anthropic-version"),
]
