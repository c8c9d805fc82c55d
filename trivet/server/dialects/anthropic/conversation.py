"""From a request's conversation to the model's prompt."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from trivet.server.dialects.anthropic.schemas import Block, Conversation, Turn
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

_BILLING = re.compile(r"^x-anthropic-billing-header:.*\n?", re.MULTILINE)
"""A line of Claude Code's that changes with every request: left in, no two prompts would begin alike."""


async def prompt_tokens(service: Service, body: Conversation) -> list[int]:
    """The prompt: turns of one role that follow each other are one turn; an assistant's at the end is continued.

    Raises Problem for blocks that are not supported, RequestError for what the model's template cannot read.
    """
    messages = _messages(body.messages)
    if messages and messages[-1] == {"role": "assistant", "content": []}:
        messages.pop()
    if system := _system(body.system):
        messages.insert(0, {"role": "system", "content": system})
    continues = bool(messages) and messages[-1]["role"] == "assistant"
    variables: dict[str, Any] = {"enable_thinking": False} if body.thinking else {}
    text = await service.render(
        messages, add_generation_prompt=not continues, continue_final_message=continues, **variables
    )
    return await service.encode(text, add_special=False)


def _system(content: str | list[Block] | None) -> list[dict[str, str]]:
    texts = [_BILLING.sub("", text) for text in _texts(content or "", "system")]
    return [_part(text) for text in texts if text]


def _messages(turns: list[Turn]) -> list[dict[str, Any]]:
    messages = []
    for role, group in groupby(enumerate(turns), lambda numbered: numbered[1].role):
        message: dict[str, Any] = {"role": role, "content": []}
        thoughts: list[str] = []
        for i, turn in group:
            content = turn.content
            if role == "assistant" and not isinstance(content, str):
                thoughts += [block.thinking or "" for block in content if block.type == "thinking"]
                content = [block for block in content if block.type != "thinking"]
            message["content"] += [_part(text) for text in _texts(content, f"messages.{i}.content") if text]
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        messages.append(message)
    return messages


def _texts(content: str | list[Block], where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    for i, block in enumerate(content):
        if block.type != "text" or block.text is None:
            what = f"a block of type {block.type!r}" if block.type != "text" else "a text block without text"
            raise Problem(Kind.INVALID, f"{where}.{i}: {what} is not supported by this server", where)
    return [block.text or "" for block in content]


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
