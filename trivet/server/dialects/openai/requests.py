"""From a request's fields to a neutral request, and the rules that come before."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from trivet.api.request import GenerateRequest
from trivet.sampling.params import GREEDY_BELOW, VLLM_STAGES, SamplingParams, check_added_penalties
from trivet.server.dialects.openai.schemas import ChatOptions, CompletionBody, GenerationBody, StreamOptions
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.service import Service

PLACEHOLDER_NAMES = ("tgi", "dummy")
"""What huggingface_hub's clients send when their user names no model."""

MAX_NAME = 128
"""Characters."""

MAX_PATTERN_SIZE = 1024
"""Tokens of a repeated pattern; all sizes up to that asked for are tried at every token."""

MIN_TEMPERATURE = 0.01
"""Of sampling: lower ones, unless greedy, are raised to it, for they would make logits too large to add up."""

PRIORITY_HEADER = "x-vllm-priority"


def check_request(service: Service, body: ChatOptions | CompletionBody) -> None:
    """Refuse an unknown model, what is not supported, and fields that contradict each other."""
    check_model(service, body.model)
    if isinstance(body, ChatOptions):
        _check_tools(body)
    refuse_unsupported(body)
    if body.stream_options not in (None, StreamOptions()) and not body.stream:
        raise Problem(Kind.INVALID, "Stream options can only be defined when `stream=True`.", "stream_options")
    if body.prompt_logprobs and body.stream:
        raise Problem(Kind.INVALID, "`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    n = 1 if body.n is None else body.n
    if body.best_of is not None and body.best_of != n:
        raise Problem(Kind.INVALID, f"best_of must be left out or equal n ({n}), got {body.best_of}", "best_of")
    if body.temperature is not None and body.temperature > 2:
        raise Problem(Kind.INVALID, f"temperature must be in [0, 2], got {body.temperature}.", "temperature")
    check_logprobs(service, body.prompt_logprobs, "prompt_logprobs")
    if body.logprob_token_ids and body.logprobs in (None, False):
        message = "when using `logprob_token_ids`, `logprobs` must be set."
        raise Problem(Kind.INVALID, message, "logprob_token_ids")
    _check_names(body)
    repetition = body.repetition_detection
    if repetition is not None and repetition.max_pattern_size > MAX_PATTERN_SIZE:
        message = f"max_pattern_size must be at most {MAX_PATTERN_SIZE}, got {repetition.max_pattern_size}"
        raise Problem(Kind.INVALID, message, "repetition_detection")
    stops = len(body.stop) if isinstance(body.stop, list) else 1
    if stops > service.options.max_stop_strings:
        raise Problem(
            Kind.INVALID, f"stop must hold at most {service.options.max_stop_strings} strings, got {stops}", "stop"
        )


def _check_tools(body: ChatOptions) -> None:
    if body.tools == []:
        raise Problem(
            Kind.INVALID,
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if body.tools and body.tool_choice != "none":
        message = 'tools are not supported by this server but for the model to know of, with tool_choice "none"'
        raise Problem(Kind.INVALID, message, "tools")


def _check_names(body: GenerationBody) -> None:
    if len(body.request_id or "") > MAX_NAME:
        raise Problem(Kind.INVALID, f"request_id must have at most {MAX_NAME} characters", "request_id")
    if body.cache_salt == "":
        message = "Parameter 'cache_salt' must be a non-empty string if provided."
        raise Problem(Kind.INVALID, message, "cache_salt")
    if body.cache_salt and (len(body.cache_salt) > MAX_NAME or not set(body.cache_salt).isdisjoint("@/\\\x00")):
        message = "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL."
        raise Problem(Kind.INVALID, message, "cache_salt")


def check_model(service: Service, name: str | None) -> None:
    """Refuse a request for a model that is not served here. llama.cpp's server answers to any name, in every API that
    it has.
    """
    if service.options.dialect != "llamacpp" and name and name not in PLACEHOLDER_NAMES:
        check_name(service, name)


def check_name(service: Service, name: str) -> None:
    """Refuse a name that is no model's here."""
    if not service.answers_to(name):
        raise Problem(
            Kind.NOT_FOUND,
            f"The model `{name}` does not exist. Valid aliases: {', '.join(service.names)}.",
            "model",
        )


def model_name(service: Service, name: str | None) -> str:
    """What the response calls the model: the name asked for, where it is one of its names."""
    return name if name and service.answers_to(name) else service.name


def check_logprobs(service: Service, value: int | None, name: str) -> None:
    """`value` best of each token, -1 for the whole vocabulary, against the server's limit (-1: none)."""
    if value is None:
        return
    if value < -1:
        raise Problem(Kind.INVALID, f"`{name}` must be a positive value or -1.", name)
    vocab_size, limit = service.llm.info.vocab_size, service.options.max_logprobs
    count, limit = (vocab_size if number == -1 else number for number in (value, limit))
    if count > limit:
        kind = "prompt" if name == "prompt_logprobs" else "sample"
        message = f"Requested {kind} logprobs of {count}, which is greater than max allowed: {limit}"
        raise Problem(Kind.INVALID, message, name)


def fit_prompt(service: Service, prompt: list[int], body: GenerationBody, *, encoded: bool, room: int = 1) -> list[int]:
    """Apply `truncate_prompt_tokens` (-1: to the context), and refuse what cannot be answered.

    encoded: the ids were made of a text, whose beginning-of-sequence token stays unless a side is named.
    room: tokens of the context to leave to the answer.
    """
    keep, side = body.truncate_prompt_tokens, body.truncation_side
    if keep is not None:
        if keep < 1 and keep != -1:
            message = f"truncate_prompt_tokens must be at least 1, or -1, got {keep}"
            raise Problem(Kind.INVALID, message, "truncate_prompt_tokens")
        if keep > service.max_model_len:
            raise Problem(
                Kind.INVALID,
                f"truncate_prompt_tokens={keep} cannot be greater than max_model_len = {service.max_model_len}. "
                "Please request a smaller truncation size.",
                "truncate_prompt_tokens",
            )
        keep = service.max_model_len - room if keep == -1 else keep
        if side == "right":
            prompt = prompt[:keep]
        elif side == "left" or not encoded:
            prompt = prompt[-keep:]
        else:
            prompt = service.truncate(prompt, keep)
    service.check_length(prompt, room)
    return prompt


def max_output_tokens(service: Service, requested: int | None, name: str, prompt_len: int) -> int | None:
    """Tokens to generate at most, within the context; `name` is the field that `requested` came from."""
    if requested is None:
        return None
    if requested > service.max_model_len:
        raise Problem(
            Kind.INVALID,
            f"{name}={requested} cannot be greater than max_total_tokens={service.max_model_len}. "
            "Please request fewer output tokens.",
            name,
        )
    return min(requested, service.max_model_len - prompt_len)


def generate_request(
    request: Request, body: GenerationBody, prompt: list[int], params: SamplingParams, request_id: str
) -> GenerateRequest:
    return GenerateRequest(
        prompt=prompt,
        params=params,
        request_id=request_id,
        priority=_priority(request, body),
        cache_salt=body.cache_salt or "",
    )


def _priority(request: Request, body: GenerationBody) -> int:
    """That of the header, where it is a number, goes before that of the body."""
    try:
        return int(request.headers.get(PRIORITY_HEADER, ""))
    except ValueError:
        return body.priority or 0


def sampling_params(
    service: Service, body: GenerationBody, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """What is not given is as the model's makers recommend. Raises RequestError for what is out of range."""
    given: dict[str, Any] = {
        "n": body.n,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repetition_penalty": body.repetition_penalty,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "typical_p": body.typical_p,
        "seed": body.seed,
        "stop": body.stop,
        "stop_token_ids": body.stop_token_ids,
        "ignore_eos": body.ignore_eos,
        "min_tokens": body.min_tokens,
        "prompt_logprobs": body.prompt_logprobs,
        "skip_special_tokens": body.skip_special_tokens,
        "include_stop_str_in_output": body.include_stop_str_in_output,
        "logit_bias": body.logit_bias,
        "allowed_token_ids": body.allowed_token_ids,
        "bad_words": body.bad_words or None,
        "logprob_token_ids": body.logprob_token_ids or None,
        "repetition_detection": body.repetition_detection,
        "stream_interval": body.stream_interval,
    }
    given = {name: value for name, value in given.items() if value is not None}
    recommended = service.llm.recommended_params
    given |= {
        "max_tokens": recommended.get("max_tokens") if max_tokens is None else max_tokens,
        "logprobs": logprobs,
        "stages": VLLM_STAGES,
    }
    check_added_penalties(body.presence_penalty, body.frequency_penalty)
    params = SamplingParams.from_optional(**recommended | given)
    if params.greedy and params.n > 1:
        raise Problem(Kind.INVALID, f"n must be 1 when using greedy sampling, got {params.n}.", "n")
    if params.temperature >= GREEDY_BELOW:
        params.temperature = max(params.temperature, MIN_TEMPERATURE)
    return params
