"""From a request's fields to neutral sampling parameters, and the rules that come before."""

from __future__ import annotations

from typing import Any

from trivet.sampling.params import VLLM_STAGES, SamplingParams
from trivet.server.dialects.openai.schemas import ChatBody, CompletionBody, GenerationBody
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

PLACEHOLDER_NAMES = ("tgi", "dummy")
"""What huggingface_hub's clients send when their user names no model."""

MAX_NAME = 128
"""Characters."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "spaces_between_special_tokens": (True,),
    "truncation_side": ("left",),
    "grammar": ("",),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "top_n_sigma": (-1, 0),
    "dynatemp_range": (0,),
    "repeat_penalty": (1,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "modalities": (["text"],),
    "echo": (False,),
    "watermarking": (False,),
}
"""Values, beside null, that ask for nothing where a field is not supported."""

SHARED_UNSUPPORTED = (
    *("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    *("grammar", "json_schema", "use_beam_search", "bad_words", "logprob_token_ids"),
    *("spaces_between_special_tokens", "truncation_side", "thinking_token_budget", "repetition_detection"),
    *("kv_transfer_params", "watermarking", "mirostat", "dry_multiplier", "xtc_probability", "top_n_sigma"),
    *("dynatemp_range", "repeat_penalty"),
)
COMPLETION_UNSUPPORTED = (*SHARED_UNSUPPORTED, "suffix", "prompt_embeds")
CHAT_UNSUPPORTED = (
    *SHARED_UNSUPPORTED,
    *("tools", "tool_choice", "functions", "function_call", "audio", "modalities", "web_search_options"),
    *("verbosity", "echo", "chat_template", "mm_processor_kwargs", "media_io_kwargs"),
)


def check_request(service: Service, body: ChatBody | CompletionBody) -> None:
    """Refuse an unknown model, what is not supported, and fields that contradict each other."""
    check_model(service, body.model)
    unsupported = CHAT_UNSUPPORTED if isinstance(body, ChatBody) else COMPLETION_UNSUPPORTED
    for name in unsupported:
        value = getattr(body, name)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise Problem(Kind.INVALID, f"{name} is not supported by this server", name)
    if body.stream_options is not None and not body.stream:
        raise Problem(Kind.INVALID, "Stream options can only be defined when `stream=True`.", "stream_options")
    if body.prompt_logprobs is not None and body.stream:
        raise Problem(Kind.INVALID, "`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise Problem(Kind.INVALID, f"best_of must be left out or equal n ({n}), got {body.best_of}", "best_of")
    if body.temperature is not None and body.temperature > 2:
        raise Problem(Kind.INVALID, f"temperature must be between 0 and 2, got {body.temperature}", "temperature")
    if body.temperature == 0 and n > 1:
        raise Problem(Kind.INVALID, f"n must be 1 when using greedy sampling, got {n}.", "n")
    check_logprobs(service, body.prompt_logprobs, "prompt_logprobs")
    for name in ("request_id", "cache_salt"):
        if len(getattr(body, name) or "") > MAX_NAME:
            raise Problem(Kind.INVALID, f"{name} must have at most {MAX_NAME} characters", name)
    stops = len(body.stop) if isinstance(body.stop, list) else 1
    if stops > service.options.max_stop_strings:
        raise Problem(
            Kind.INVALID, f"stop must hold at most {service.options.max_stop_strings} strings, got {stops}", "stop"
        )


def check_model(service: Service, name: str | None) -> None:
    """Refuse a model that is not served here."""
    if name and not service.answers_to(name) and name not in PLACEHOLDER_NAMES:
        raise Problem(
            Kind.NOT_FOUND,
            f"The model `{name}` does not exist. This server serves: {', '.join(service.names)}.",
            "model",
        )


def model_name(service: Service, name: str | None) -> str:
    """What the response calls the model: the name asked for, where it is one of its names."""
    return name if name and service.answers_to(name) else service.name


def check_logprobs(service: Service, value: int | None, name: str) -> None:
    limit = service.options.max_logprobs
    if value is not None and not 0 <= value <= limit:
        raise Problem(Kind.INVALID, f"{name} must be between 0 and {limit}, got {value}", name)


def fit_prompt(service: Service, prompt: list[int], truncate: int | None) -> list[int]:
    """Apply `truncate_prompt_tokens` (-1: to the context), and refuse what cannot be answered."""
    if truncate is not None:
        if truncate < 1 and truncate != -1:
            raise Problem(
                Kind.INVALID,
                f"truncate_prompt_tokens must be at least 1, or -1, got {truncate}",
                "truncate_prompt_tokens",
            )
        prompt = service.truncate(prompt, truncate if truncate > 0 else service.max_model_len - 1)
    service.check_length(prompt)
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
        "logit_bias": _clamped(body.logit_bias),
        "allowed_token_ids": body.allowed_token_ids,
    }
    given = {name: value for name, value in given.items() if value is not None}
    recommended = service.llm.recommended_params
    given |= {
        "max_tokens": recommended.get("max_tokens") if max_tokens is None else max_tokens,
        "logprobs": logprobs,
        "stages": VLLM_STAGES,
    }
    return SamplingParams(**recommended | given)


def _clamped(bias: dict[int, float] | None) -> dict[int, float] | None:
    return None if bias is None else {token: max(-100.0, min(100.0, value)) for token, value in bias.items()}
