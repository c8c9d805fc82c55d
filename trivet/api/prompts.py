"""The forms of a prompt that vLLM takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, cast

import msgspec

from trivet.api.request import GenerateRequest
from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams, check_added_penalties


class TextPrompt(TypedDict):
    """cache_salt: prompts share their cache only with those of the same."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """prompt: the text of the tokens, if the output is to tell it."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


Prompt = str | list[int] | TextPrompt | TokensPrompt
MIN_TEMPERATURE = 0.01
"""Of what is not greedy."""
KEYS = {"prompt", "prompt_token_ids", "cache_salt"}
FORMS = "text, a list of token ids, or a dict with 'prompt' or 'prompt_token_ids'"

log = logging.getLogger(__name__)


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt, or several, as a list: a list of numbers is one prompt of tokens. Raises RequestError."""
    given = cast(Any, prompts)
    if not isinstance(given, str | dict | Sequence):
        raise RequestError(f"a prompt is {FORMS}, got {given!r:.80}", "prompt")
    one = isinstance(given, str | dict) or (len(given) > 0 and isinstance(given[0], int))
    return cast(list[Prompt], [given] if one else list(given))


def generate_request(
    prompt: Prompt,
    params: SamplingParams,
    request_id: str,
    *,
    priority: int = 0,
    prompt_text: str | None = None,
    tokenization_kwargs: dict[str, Any] | None = None,
    **unsupported: Any,
) -> GenerateRequest:
    """From the arguments of vLLM's methods to a request; it may be streamed as `params.output_kind` says.

    tokenization_kwargs: `add_special_tokens` and `truncate_prompt_tokens`.
    unsupported: vLLM's further arguments, which must ask for nothing.

    Raises RequestError when an argument is not valid, or there is no support for it.
    """
    for name, value in unsupported.items():
        if value:
            raise RequestError(f"{name} is not supported, got {value!r:.80}", name)
    if not isinstance(params, SamplingParams):
        raise RequestError(f"sampling_params must be SamplingParams, got {type(params).__name__}", "sampling_params")
    if not isinstance(priority, int):
        raise RequestError(f"priority must be an integer, got {priority!r}", "priority")
    fields: dict[str, Any] = {"prompt": prompt, "prompt_text": prompt_text}
    if isinstance(prompt, dict):
        fields = _from_dict(cast(dict[str, Any], prompt), prompt_text)
    plain = fields["prompt"]
    if not isinstance(plain, str) and not (isinstance(plain, list) and all(isinstance(token, int) for token in plain)):
        raise RequestError(f"a prompt is {FORMS}, got {prompt!r:.80}", "prompt")
    return GenerateRequest(
        params=params, request_id=request_id, priority=priority, **fields, **_tokenization(tokenization_kwargs or {})
    )


def _from_dict(prompt: dict[str, Any], prompt_text: str | None) -> dict[str, Any]:
    for name, value in prompt.items():
        if name not in KEYS and value:
            raise RequestError(f"a prompt's {name!r} is not supported; a prompt is {FORMS}", "prompt")
    salt = prompt.get("cache_salt") or ""
    if not isinstance(salt, str):
        raise RequestError(f"cache_salt must be text, got {salt!r:.80}", "cache_salt")
    if (ids := prompt.get("prompt_token_ids")) is None:
        return {"prompt": prompt.get("prompt"), "cache_salt": salt}
    return {"prompt": ids, "prompt_text": prompt_text or prompt.get("prompt"), "cache_salt": salt}


def _tokenization(kwargs: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(kwargs, dict):
        raise RequestError(f"tokenization_kwargs must be a dict, got {kwargs!r:.80}", "tokenization_kwargs")
    for name in kwargs:
        if name not in ("add_special_tokens", "truncate_prompt_tokens"):
            names = "add_special_tokens and truncate_prompt_tokens"
            raise RequestError(f"tokenization_kwargs may have {names}, not {name!r}", "tokenization_kwargs")
    if not isinstance(kwargs.get("add_special_tokens", True), bool):
        raise RequestError("add_special_tokens must be True or False", "tokenization_kwargs")
    keep = kwargs.get("truncate_prompt_tokens")
    if keep is not None and not isinstance(keep, int):
        raise RequestError(f"truncate_prompt_tokens must be an integer, got {keep!r}", "tokenization_kwargs")
    return kwargs


def within_limits(params: SamplingParams, max_logprobs: int) -> SamplingParams:
    """vLLM's limits, which other dialects do not have. Raises RequestError."""
    if params.temperature > 2:
        raise RequestError(f"temperature must be between 0 and 2, got {params.temperature}", "temperature")
    check_added_penalties(params.presence_penalty, params.frequency_penalty)
    if params.greedy and params.n > 1:
        raise RequestError(f"n must be 1 when using greedy sampling, got {params.n}", "n")
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(params, name)
        if asked is not None and max_logprobs != -1 and not 0 <= asked <= max_logprobs:
            shown = "all" if asked == -1 else asked
            rule = f"{name} may be at most {max_logprobs}, got {shown}; the engine's max_logprobs sets the limit"
            raise RequestError(rule, name)
    if not params.greedy and params.temperature < MIN_TEMPERATURE:
        log.warning("temperature %s is raised to %s", params.temperature, MIN_TEMPERATURE)
        return msgspec.structs.replace(params, temperature=MIN_TEMPERATURE)
    return params
