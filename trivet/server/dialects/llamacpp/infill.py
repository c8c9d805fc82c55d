"""Filling in the middle: the prompt that models with tokens for it were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trivet.server.dialects.llamacpp.errors import NotSupported
from trivet.server.dialects.llamacpp.prompts import added_bos
from trivet.server.dialects.llamacpp.schemas import InfillBody
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

PROJECT = "myproject\n"
FILE = "filename\n"
SNIPPET = "\n\n--- snippet ---\n\n"
"""Stands before a chunk where the model has no token for that."""


async def infill_prompt(service: Service, body: InfillBody, n_predict: int) -> list[int]:
    """[extra chunks] [BOS] PRE prefix prompt SUF suffix MID, or the suffix first (`ServerOptions.spm_infill`).

    A step of the engine must hold prefix and suffix, three parts to one; the extra chunks get what the context leaves.
    """
    check(service, body)
    fim = service.llm.tokenizer.fim

    async def encode(text: str) -> list[int]:
        return await service.encode(text, add_special=False, parse_special=False)

    prefix, suffix = await encode(body.input_prefix), await encode(body.input_suffix)
    prompt = await service.encode(body.prompt or "", add_special=False)
    extra = await _extra_tokens(service, body.input_extra or [])
    step = service.llm.info.max_num_batched_tokens
    prefix = [fim["pre"], *_last(prefix, 3 * (step // 4)), *prompt]
    suffix = [fim["suf"], *suffix[: max(0, step // 4 - (2 + len(prompt)))]]
    extra = _last(extra, max(0, service.max_model_len - step - 2 * max(0, n_predict)))
    first, second = (suffix, prefix) if service.options.spm_infill else (prefix, suffix)
    bos = added_bos(service)
    return [*extra, *([] if bos is None else [bos]), *first, *second, fim["mid"]]


def check(service: Service, body: InfillBody) -> None:
    """Raise Problem for a field of the wrong shape, NotSupported for a model without the tokens."""
    fim = service.llm.tokenizer.fim
    missing = [name for role, name in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle")) if role not in fim]
    if missing:
        tokens = "".join(f"{name} token is missing. " for name in missing)
        raise NotSupported(f"Infill is not supported by this model: {tokens}")
    if body.prompt is not None and not isinstance(body.prompt, str):
        raise Problem(Kind.INVALID, '"prompt" must be a string', "prompt")
    for name in ("input_prefix", "input_suffix"):
        value = getattr(body, name)
        if value is None:
            raise Problem(Kind.INVALID, f'"{name}" is required', name)
        if not isinstance(value, str):
            raise Problem(Kind.INVALID, f'"{name}" must be a string', name)
    _check_extra(body.input_extra)


def _check_extra(extra: Any) -> None:
    if extra is None:
        return
    if not isinstance(extra, list):
        message = '"input_extra" must be an array of {"filename": string, "text": string}'
        raise Problem(Kind.INVALID, message, "input_extra")
    for chunk in extra:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("text"), str):
            message = 'extra_context chunk must contain a "text" field with a string value'
            raise Problem(Kind.INVALID, message, "input_extra")
        if not isinstance(chunk.get("filename", ""), str):
            message = 'extra_context chunk must contain a "filename" field with a string value'
            raise Problem(Kind.INVALID, message, "input_extra")


async def _extra_tokens(service: Service, chunks: Sequence[dict[str, str]]) -> list[int]:
    fim = service.llm.tokenizer.fim

    async def encode(text: str) -> list[int]:
        return await service.encode(text, add_special=False, parse_special=False)

    tokens: list[int] = []
    if "rep" in fim:
        tokens += [fim["rep"], *await encode(PROJECT)]
    for chunk in chunks:
        if "sep" in fim:
            tokens += [fim["sep"], *await encode(chunk.get("filename", "tmp") + "\n")]
        else:
            tokens += await encode(SNIPPET)
        tokens += await encode(chunk["text"])
    if "sep" in fim:
        tokens += [fim["sep"], *await encode(FILE)]
    return tokens


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[max(0, len(tokens) - count) :]
