"""Conversations as prompts, by llama.cpp's rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trivet.server.dialects.llamacpp.prompts import added_bos
from trivet.server.dialects.llamacpp.schemas import ChatBody
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.service import Service

RESERVED = ("messages", "tools", "self", "add_generation_prompt", "continue_final_message")
"""What `chat_template_kwargs` cannot set."""


async def render(service: Service, body: ChatBody) -> tuple[str, str]:
    """The conversation as the model's template writes it, and the text that the answer is to go on from.

    An assistant's message at the end is such a text (prefill). The beginning-of-text token is left to the tokenizer.
    Raises Problem, and RequestError for what the template cannot read.
    """
    refuse_unsupported(body)
    messages = body.messages
    if messages is None:
        raise Problem(Kind.INVALID, "'messages' is required", "messages")
    if not isinstance(messages, list):
        raise Problem(Kind.INVALID, "Expected 'messages' to be an array", "messages")
    messages = [_without_refusals(message) for message in messages]
    prefill = ""
    if messages and _is_assistant(messages[-1]) and body.continue_final_message is not False:
        if len(messages) > 1 and _is_assistant(messages[-2]):
            message = "Cannot have 2 or more assistant messages at the end of the list."
            raise Problem(Kind.INVALID, message, "messages")
        *messages, last = messages
        prefill = _text(last)
    elif body.continue_final_message:
        message = "continue_final_message needs an assistant's message at the end of the list"
        raise Problem(Kind.INVALID, message, "continue_final_message")
    add_generation_prompt = body.add_generation_prompt is not False or bool(prefill)
    variables = {"add_generation_prompt": add_generation_prompt, **_template_variables(service, body)}
    text = await service.render(messages, **variables)
    if (bos := added_bos(service)) is not None:
        text = text.removeprefix(service.llm.tokenizer.token_text(bos))
    return text + prefill, prefill


async def encode(service: Service, text: str) -> list[int]:
    """Token ids of what `render` wrote."""
    bos = added_bos(service)
    return ([] if bos is None else [bos]) + await service.encode(text, add_special=False)


def _template_variables(service: Service, body: ChatBody) -> dict[str, Any]:
    given = body.chat_template_kwargs or {}
    if wrong := [name for name in RESERVED if name in given]:
        raise Problem(Kind.INVALID, f"chat_template_kwargs must not hold {wrong[0]!r}", "chat_template_kwargs")
    now = datetime.now()
    dates = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
    variables = dates | service.llm.args.default_chat_template_kwargs
    if body.reasoning_effort is not None:
        variables |= {"reasoning_effort": body.reasoning_effort, "enable_thinking": body.reasoning_effort != "none"}
    return variables | given


def _without_refusals(message: Any) -> Any:
    """A message without its parts of the type `refusal`."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts = [part for part in content if not (isinstance(part, dict) and part.get("type") == "refusal")]
    return message | {"content": parts}


def _is_assistant(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _text(assistant: dict[str, Any]) -> str:
    """The content of a message, its parts one after another."""
    content = assistant.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise Problem(
            Kind.INVALID, "the content of the last message must be a text or a list of text parts", "messages"
        )
    return "".join(part["text"] for part in parts)
