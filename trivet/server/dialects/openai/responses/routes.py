"""The routes of OpenAI's Responses API, and llama.cpp's names for them."""

from __future__ import annotations

from trivet.server.dialects.openai.responses.create import count_input_tokens, create_response
from trivet.server.dialects.openai.responses.schemas import InputTokensBody, ResponsesBody
from trivet.server.dialects.openai.responses.stored import cancel, delete, input_items, retrieve
from trivet.server.endpoint import Operation

OPERATIONS = [
    Operation("/v1/responses", create_response, body=ResponsesBody, generates=True),
    Operation("/responses", create_response, body=ResponsesBody, generates=True),
    Operation("/v1/responses/input_tokens", count_input_tokens, body=InputTokensBody),
    Operation("/responses/input_tokens", count_input_tokens, body=InputTokensBody),
    Operation("/v1/responses/{response_id}", retrieve, "GET"),
    Operation("/v1/responses/{response_id}", delete, "DELETE"),
    Operation("/v1/responses/{response_id}/cancel", cancel),
    Operation("/v1/responses/{response_id}/input_items", input_items, "GET"),
]
