"""Conversations to prompts, by the Jinja template that comes with a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trivet.errors import RequestError
from trivet.text.compiled_template import MARK, CompiledTemplate
from trivet.text.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""llama.cpp's template for models that come without one."""

_FINAL_MARK = MARK + " "
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""What dialects and templates call the thoughts in an assistant's message."""


class ChatTemplate:
    """One template for one tokenizer. Safe to share between threads.

    source: Jinja, with what transformers' `apply_chat_template` offers; None for the model's own (its `tool_use` one,
    where it has that, for conversations with tools), or CHATML.
    defaults: variables for the template that `render` is not given.

    tool_use_source: that of the template for conversations with tools, where it is another.

    Raises ModelError when the source is not valid.
    """

    def __init__(self, source: str | None, tokenizer: Tokenizer, defaults: Mapping[str, Any] | None = None) -> None:
        self._defaults = dict(defaults or {})
        own = {"default": CHATML, **tokenizer.chat_templates} if source is None else {"default": source}
        self.source = own["default"]
        self.tool_use_source = own.get("tool_use")
        self._default = CompiledTemplate(own["default"], tokenizer.names)
        self._with_tools = CompiledTemplate(own["tool_use"], tokenizer.names) if "tool_use" in own else self._default

    @property
    def capabilities(self) -> dict[str, bool]:
        """What the template takes, in llama.cpp's words."""
        return {
            "supports_string_content": not self._default.wants_parts,
            "supports_typed_content": self._default.wants_parts,
            "supports_system_role": self._default.takes_system,
            "supports_object_arguments": self._default.wants_argument_objects,
        }

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        merge_developers: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt for a conversation; encode it with `add_special=False`, for it has its own special tokens.

        messages: in OpenAI's form. Where a template cannot read a form of message, it gets another that says the same:
            a system message goes to the head of the next, text parts are joined by newlines.
        continue_final_message: end the prompt where the text of the last message ends, for the model to go on.
        merge_developers: where the template has no role `developer`, and a message has it, that and all system messages
            become one at the head; otherwise the message is a system message where it stands.
        kwargs: further variables for the template, such as `enable_thinking`.

        Raises RequestError when the messages are not valid, or the template refuses them or fails.
        """
        template = self._with_tools if tools else self._default
        conversation = _conversation(messages, template, merge_developers)
        if continue_final_message:
            _mark_end(conversation[-1], add_generation_prompt)
        variables = {
            "documents": None,
            **_plain(self._defaults | kwargs, "chat_template_kwargs"),
            "tools": _plain(tools, "tools") if tools else template.no_tools,
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = template.render(conversation, **variables)
        return _cut_at_mark(prompt) if continue_final_message else prompt


def _plain(value: Any, parameter: str) -> Any:
    """A copy made of nothing but JSON's types: an object's methods are no business of a template's."""
    try:
        return msgspec.to_builtins(value)
    except (TypeError, RecursionError) as error:
        raise RequestError(f"{parameter} must be made of JSON's types: {error}", parameter) from None


def _conversation(
    messages: Sequence[Mapping[str, Any]], template: CompiledTemplate, merge_developers: bool
) -> list[dict[str, Any]]:
    """A copy of the messages in the form that a template reads."""
    plain = _plain(messages, "messages")
    if not isinstance(plain, list) or not plain:
        raise RequestError("messages must be a list of at least one message", "messages")
    merging = False
    for i, message in enumerate(plain):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{i}] must be an object with a role", "messages")
        _drop_absent(message)
        if message["role"] == "developer" and not template.knows_developer:
            message["role"] = "system"
            merging = merge_developers
        message["content"] = _content(message.get("content"), template, f"messages[{i}].content")
        if "tool_calls" in message:
            _fit_tool_calls(message, template, f"messages[{i}].tool_calls")
        elif message["content"] is None:
            message["content"] = [] if template.wants_parts else ""
        thoughts = next((message[name] for name in _REASONING if name in message), None)
        if thoughts is not None:
            message["reasoning_content"] = thoughts
            message.setdefault("thinking", thoughts)
    if merging:
        plain = _with_one_system(plain, template)
    if plain[0]["role"] == "system" and len(plain) > 1 and not template.takes_system:
        _put_before(plain.pop(0)["content"], plain[0])
    return plain


def _drop_absent(message: dict[str, Any]) -> None:
    """Many templates take what is there at all for a value, or for calls."""
    empty = [name for name, value in message.items() if value is None or (name == "tool_calls" and value == [])]
    for name in empty:
        del message[name]


def _content(content: Any, template: CompiledTemplate, where: str) -> Any:
    if content is None:
        return None
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if template.wants_parts else content
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a text or a list of parts, not {content!r}", "messages")
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{where}[{i}] is of type {kind!r}; only text parts are supported", "messages")
    return content if template.wants_parts else "\n".join(part["text"] for part in content)


def _fit_tool_calls(message: dict[str, Any], template: CompiledTemplate, where: str) -> None:
    """OpenAI has a call's arguments as JSON text, and no content beside calls."""
    calls = message["tool_calls"]
    for i, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RequestError(f"{where}[{i}] must be an object with a function", "messages")
        arguments = function.get("arguments")
        if isinstance(arguments, str) and template.wants_argument_objects:
            function["arguments"] = _parsed(arguments)
        elif isinstance(arguments, dict) and not template.wants_argument_objects:
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if message["content"] is None and not template.takes_calls_alone:
        message["content"] = ""


def _parsed(arguments: str) -> Any:
    """A model's own call, which goes into the next request as it was written, may be cut off or wrong: as vLLM does,
    what is not JSON is taken for no arguments.
    """
    try:
        return json.loads(arguments)
    except (json.JSONDecodeError, RecursionError):
        return {}


def _with_one_system(messages: list[dict[str, Any]], template: CompiledTemplate) -> list[dict[str, Any]]:
    contents = [message["content"] for message in messages if message["role"] == "system" and message["content"]]
    whole = [part for parts in contents for part in parts] if template.wants_parts else "\n\n".join(contents)
    return [{"role": "system", "content": whole}, *(message for message in messages if message["role"] != "system")]


def _put_before(text: Any, message: dict[str, Any]) -> None:
    content = message["content"]
    message["content"] = text + content if isinstance(text, list) else f"{text}\n{content or ''}"


def _mark_end(message: dict[str, Any], add_generation_prompt: bool) -> None:
    if add_generation_prompt:
        raise RequestError("continue_final_message needs add_generation_prompt to be false", "continue_final_message")
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _FINAL_MARK
    elif content:
        content[-1]["text"] += _FINAL_MARK
    else:
        raise RequestError("continue_final_message: the last message has no text", "continue_final_message")


def _cut_at_mark(prompt: str) -> str:
    text, mark, rest = prompt.rpartition(MARK)
    if not mark:
        raise RequestError(
            "continue_final_message: the template leaves out the last message's text", "continue_final_message"
        )
    return text if rest.startswith(" ") else text.rstrip()  # it trimmed the mark, so it would have trimmed the text
