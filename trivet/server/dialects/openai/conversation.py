"""From a chat's messages to the model's prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from trivet.errors import ModelError
from trivet.server.dialects.openai.schemas import ChatOptions, TokenizeChatBody
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service
from trivet.text.chat_template import ChatTemplate

Message = Mapping[str, Any]
MAX_TEMPLATE = 1 << 16
"""Characters of a template that comes with a request; those of models have up to some 20,000."""

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Types of content parts that are text, and the field that it is in."""

RESERVED = ("messages", "tools", "self", "tokenize", "chat_template")
"""What `chat_template_kwargs` cannot set."""


async def render(
    service: Service, messages: Sequence[Message], body: ChatOptions | TokenizeChatBody, **variables: Any
) -> str:
    """The conversation as the model's template, or the request's own, writes it. `variables` are for the template.

    Raises Problem and RequestError for what cannot be written.
    """
    if body.continue_final_message and body.add_generation_prompt is not False:
        raise Problem(
            Kind.INVALID,
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            "continue_final_message",
        )
    if body.chat_template is not None and not service.options.trust_request_chat_template:
        raise Problem(
            Kind.INVALID,
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template.",
            "chat_template",
        )
    given = body.chat_template_kwargs or {}
    if wrong := [name for name in RESERVED if name in given]:
        raise Problem(Kind.INVALID, f"chat_template_kwargs must not hold {wrong[0]!r}", "chat_template_kwargs")
    settings = {
        "add_generation_prompt": body.add_generation_prompt is not False,
        "continue_final_message": bool(body.continue_final_message),
    }
    plain = [_plain(message) for message in messages]
    everything = settings | variables | given | {"merge_developers": True}
    if body.chat_template is None:
        return await service.render(plain, body.tools, **everything)
    # It is not known how long it takes: the event loop goes on meanwhile.
    return await asyncio.to_thread(_render_by, service, body.chat_template, plain, body.tools, everything)


def last_text(messages: Sequence[Message], role: str) -> str:
    """The text of the last message if it is of that role: what `echo` repeats. The messages must have been rendered."""
    last = messages[-1]
    content = _plain(last).get("content") or ""
    if last["role"] != role:
        return ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _render_by(service: Service, source: str, messages: list[Message], tools: Any, variables: Mapping[str, Any]) -> str:
    if len(source) > MAX_TEMPLATE:
        message = f"chat_template may have {MAX_TEMPLATE} characters, got {len(source)}"
        raise Problem(Kind.INVALID, message, "chat_template")
    try:
        template = ChatTemplate(source, service.llm.tokenizer, service.llm.args.default_chat_template_kwargs)
    except ModelError as error:
        raise Problem(Kind.INVALID, str(error), "chat_template") from None
    return template.render(messages, tools, **variables)


def _plain(message: Message) -> Message:
    """A message whose parts of text all have the type "text"."""
    content = message.get("content")
    return {**message, "content": [_text_part(part) for part in content]} if isinstance(content, list) else message


def _text_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in TEXT_PARTS:
        return {**part, "type": "text", "text": part.get(TEXT_PARTS[kind])}
    return part
