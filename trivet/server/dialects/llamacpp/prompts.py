"""The forms that llama.cpp's `prompt` may take."""

from __future__ import annotations

from typing import Any

from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


def split_prompts(prompt: Any) -> tuple[list[Any], bool]:
    """The prompts in a request, and whether they came as a list of prompts.

    One prompt is a text, a list of token ids, or a list of ids and texts; a list of anything else holds several.
    """
    if not isinstance(prompt, list):
        return [prompt], False
    has_ids = any(_is_id(part) for part in prompt)
    if has_ids and all(_is_id(part) or isinstance(part, str) for part in prompt):
        return [prompt], False
    return prompt, True


async def encode_prompt(
    service: Service, prompt: Any, *, add_special: bool = True, parse_special: bool = True
) -> list[int]:
    """Token ids of one prompt; special tokens are added to a text, if it comes first."""
    if isinstance(prompt, str):
        return await service.encode(prompt, add_special, parse_special)
    if isinstance(prompt, dict) and isinstance(prompt.get("prompt_string"), str):
        if prompt.get("multimodal_data"):
            raise Problem(Kind.INVALID, '"multimodal_data" is not supported by this server', "prompt")
        return await service.encode(prompt["prompt_string"], add_special, parse_special)
    if not isinstance(prompt, list) or not all(_is_id(part) or isinstance(part, str) for part in prompt):
        raise Problem(
            Kind.INVALID,
            '"prompt" elements must be a string, a list of tokens, a JSON object containing a prompt string, '
            "or a list of mixed strings & tokens",
            "prompt",
        )
    ids: list[int] = []
    for number, part in enumerate(prompt):
        text_first = add_special and number == 0
        ids += [part] if _is_id(part) else await service.encode(part, text_first, parse_special)
    return ids


def added_bos(service: Service) -> int | None:
    """The token that the tokenizer puts before a text."""
    tokenizer = service.llm.tokenizer
    return tokenizer.bos_id if tokenizer.bos_id in tokenizer.encode("")[:1] else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
