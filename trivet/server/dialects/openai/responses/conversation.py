"""From a request's input, and what went before it, to the model's prompt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from trivet.server.dialects.openai.conversation import render
from trivet.server.dialects.openai.responses.schemas import (
    InputItem,
    InputPart,
    InputText,
    InputTokensBody,
    Item,
    OutputText,
)
from trivet.server.dialects.openai.schemas import ChatBody
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

TEXT_TYPES = ("input_text", "output_text", "text")
LEADING_ROLES = ("system", "developer")


def new_item_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


def input_items(given: str | list[InputItem] | None) -> list[Item]:
    """A request's input in the form in which it is kept. Raises Problem for what is not a text message."""
    if given is None:
        return []
    if isinstance(given, str):
        return [Item(new_item_id(), "completed", "user", [InputText(given)])]
    return [_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _item(given: InputItem, where: str) -> Item:
    if given.type != "message":
        raise Problem(Kind.INVALID, f"{where} is of type {given.type!r}; only messages are supported", "input")
    if given.role is None or given.content is None:
        raise Problem(Kind.INVALID, f"{where} must have a role and content", "input")
    parts = [InputPart("text", given.content)] if isinstance(given.content, str) else given.content
    texts = [_text(part, f"{where}.content[{i}]") for i, part in enumerate(parts)]
    shape = OutputText if given.role == "assistant" else InputText
    return Item(given.id or new_item_id(), "completed", given.role, [shape(text) for text in texts])


def _text(part: InputPart, where: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text if part.type in TEXT_TYPES else None
    if text is None:
        raise Problem(Kind.INVALID, f"{where} is of type {part.type!r}; only text is supported", "input")
    return text


async def prompt_tokens(service: Service, body: InputTokensBody, items: Sequence[Item]) -> list[int]:
    """The prompt of a conversation; with truncation "auto", of as much of its end as fits into the context.

    What is dropped is whole turns, beginning with the oldest, but no leading system messages. The prompt may be too
    long. Raises RequestError for what the model's template cannot read.
    """
    prompt = await _encoded(service, body, items)
    if body.truncation != "auto":
        return prompt
    lead = next((i for i, item in enumerate(items) if item.role not in LEADING_ROLES), len(items))
    cuts = [i for i, item in enumerate(items) if i > lead and item.role == "user"]
    fits = len(prompt) < service.max_model_len
    low, high = 0, 0 if fits else len(cuts)
    while low < high:
        middle = (low + high) // 2
        shorter = await _encoded(service, body, [*items[:lead], *items[cuts[middle] :]])
        if len(shorter) < service.max_model_len:
            prompt, high = shorter, middle
        else:
            low = middle + 1
    return prompt


async def _encoded(service: Service, body: InputTokensBody, items: Sequence[Item]) -> list[int]:
    messages = [
        {"role": item.role, "content": [{"type": "text", "text": part.text} for part in item.content]} for item in items
    ]
    if body.instructions:
        _put_first(body.instructions, messages)
    if not messages:
        raise Problem(Kind.INVALID, "input must hold at least one message", "input")
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning and body.reasoning.effort:
        variables.setdefault("enable_thinking", False)
    chat = ChatBody(messages=messages, chat_template_kwargs=variables)
    return await service.encode(await render(service, messages, chat), add_special=False)


def _put_first(instructions: str, messages: list[dict[str, Any]]) -> None:
    """Templates know one system message, so instructions join that of the input."""
    content = [{"type": "text", "text": instructions}]
    if messages and messages[0]["role"] in LEADING_ROLES:
        content += messages.pop(0)["content"]
    messages.insert(0, {"role": "system", "content": content})
