"""One Jinja template, and what it takes: templates differ in the forms of a message that they can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from jinja2 import TemplateSyntaxError

from trivet.errors import ModelError, RequestError
from trivet.text.template_bounds import check_length
from trivet.text.template_sandbox import Raised, TemplateSandbox

MARK = "\u2063mark\u2063"
"""A text that no conversation holds."""

MAX_STEPS = 300_000
"""Calls and turns of loops in one rendering; a message of a conversation takes some dozens."""
_TRIAL_STEPS = 10_000

_SANDBOX = TemplateSandbox()


class CompiledTemplate:
    """`takes_…` and `wants_…` are found by rendering small conversations, when first asked for.

    names: variables for every rendering (`bos_token`, …).

    Raises ModelError when the source is not valid.
    """

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        try:
            self._template = _SANDBOX.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template is not valid: line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise ModelError("the chat template is not valid: it is nested too deeply") from None
        self._names = names
        self.knows_developer = "developer" in source

    def render(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        """Raises RequestError when the template refuses the messages, fails, or does not come to an end."""
        return self._render(messages, variables, MAX_STEPS)

    def _render(self, messages: list[dict[str, Any]], variables: Mapping[str, Any], max_steps: int) -> str:
        _SANDBOX.start(max_steps)
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate({**self._names, **variables, "messages": messages}):
                size += len(part)
                check_length(size)
                parts.append(part)
        except Raised as error:
            raise RequestError(str(error), "messages") from None
        except Exception as error:  # a template is a program: it may fail in any way
            what = str(error) or type(error).__name__
            raise RequestError(f"the chat template fails on this conversation: {what}", "messages") from None
        return "".join(parts)

    @cached_property
    def takes_system(self) -> bool:
        system = {"role": "system", "content": self._text(MARK)}
        return MARK in self._try([system, *_user(self._text("x"))], self.no_tools)

    @cached_property
    def no_tools(self) -> list[Any] | None:
        """What `tools` must be where there are none."""
        messages = _user(self._text(MARK))
        return [] if MARK not in self._try(messages, None) and MARK in self._try(messages, []) else None

    @cached_property
    def wants_parts(self) -> bool:
        """Whether content must be a list of parts; otherwise it is text."""
        return MARK not in self._try(_user(MARK), []) and MARK in self._try(_user([_part(MARK)]), [])

    @cached_property
    def wants_argument_objects(self) -> bool:
        """Whether a call's arguments are an object; otherwise they are JSON text."""
        arguments = {"name": MARK}
        return self._writes_call(arguments) or not self._writes_call(json.dumps(arguments, ensure_ascii=False))

    @cached_property
    def takes_calls_alone(self) -> bool:
        """Whether a message with tool calls may have none for content; otherwise it must be ""."""
        arguments = {"name": MARK} if self.wants_argument_objects else json.dumps({"name": MARK}, ensure_ascii=False)
        text = self._call(arguments, None)
        return MARK in text and "None" not in text

    def _writes_call(self, arguments: Any) -> bool:
        return any(MARK in self._call(arguments, content) for content in (None, ""))

    def _call(self, arguments: Any, content: str | None) -> str:
        """What the template writes for a message with a tool call."""
        function = {"name": "f", "arguments": arguments}
        call = {"id": "call00001", "type": "function", "function": function}
        message = {"role": "assistant", "content": content, "tool_calls": [call]}
        return self._try([*_user(self._text("x")), message], self.no_tools)

    def _try(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """What the template writes; "" where it fails."""
        try:
            variables = {"tools": tools, "documents": None, "add_generation_prompt": False}
            return self._render(messages, variables, _TRIAL_STEPS)
        except RequestError:
            return ""

    def _text(self, text: str) -> Any:
        return [_part(text)] if self.wants_parts else text


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]
