"""llama.cpp's request fields and defaults, and what they mean to the sampler."""

from __future__ import annotations

import math
import secrets
from typing import Any

from trivet.errors import RequestError
from trivet.sampling import llamacpp_samplers as samplers
from trivet.sampling.params import SamplingParams
from trivet.server.dialects.llamacpp.bias import logit_bias
from trivet.server.dialects.llamacpp.limits import apply_limits, check_range
from trivet.server.dialects.llamacpp.results import GenerationSettings, LogitBias
from trivet.server.dialects.llamacpp.schemas import ChatBody, CompletionBody, GenerationBody
from trivet.server.dialects.llamacpp.slots import slots_of
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.service import Service

RANDOM_SEED = 0xFFFFFFFF
ALMOST_NONE = 1e-9
"""Stands for the 0 of `top_p` and `typical_p`, which keeps one token."""

DEFAULTS: dict[str, Any] = {
    "seed": RANDOM_SEED,
    "temperature": 0.8,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "ignore_eos": False,
    "n_probs": 0,
    "min_keep": 0,
}

_OWN_NAMES = {
    "max_tokens": "n_predict",
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
    "logprobs": "n_probs",
    "n": "n_cmpl",
    "stages": "samplers",
}
"""SamplingParams -> llama.cpp, where they differ."""


def settings(service: Service, body: GenerationBody) -> GenerationSettings:
    """Apply limits and defaults. Raises Problem for what is out of range or not supported."""
    refuse_unsupported(body)
    apply_limits(body)
    if body.dry_sequence_breakers == []:
        message = "Field 'dry_sequence_breakers': Error: dry_sequence_breakers must be a non-empty array of strings"
        raise Problem(Kind.INVALID, message, "dry_sequence_breakers")
    own = server_defaults(service)
    values = {name: _or(getattr(body, name), own[name]) for name in DEFAULTS}
    values["seed"] %= 2**32
    values["n_probs"] = _probabilities(body, values["n_probs"])
    if values["dry_base"] < 1:
        values["dry_base"] = own["dry_base"]
    for name in ("repeat_last_n", "dry_penalty_last_n"):
        if values[name] == -1:
            values[name] = service.max_model_len
    n_predict = _first_n_predict(service, body.n_predict, body.max_completion_tokens, body.max_tokens)
    return GenerationSettings(
        **values,
        stop=_stops(body) or own.get("stop", []),
        max_tokens=n_predict,
        n_predict=n_predict,
        n_keep=_or(body.n_keep, 0),
        n_discard=_or(body.n_discard, 0),
        stream=bool(body.stream),
        logit_bias=_biases(service, body, own.get("logit_bias", {}), values["ignore_eos"]),
        samplers=own["samplers"] if body.samplers is None else samplers.samplers(body.samplers),
        timings_per_token=bool(body.timings_per_token),
        post_sampling_probs=bool(body.post_sampling_probs),
        reasoning_format=_or(body.reasoning_format, "none"),
    )


def server_defaults(service: Service) -> dict[str, Any]:
    """llama.cpp's defaults, over them what the model's makers recommend, and over this the command line."""
    given = service.llm.recommended_params | service.options.sampling_defaults
    given = {_OWN_NAMES.get(name, name): value for name, value in given.items()}
    given["samplers"] = samplers.names_of(given["samplers"]) if "samplers" in given else samplers.DEFAULT
    if isinstance(stop := given.get("stop"), str):
        given["stop"] = [stop]
    return DEFAULTS | {name: value for name, value in given.items() if value is not None}


def draw_seed(given: GenerationSettings) -> None:
    """Choose a seed where the request leaves that to chance; the answer shows it."""
    if given.seed == RANDOM_SEED:
        given.seed = secrets.randbelow(RANDOM_SEED)


def count(service: Service, body: GenerationBody) -> int:
    """Sequences to make for each prompt: at most as many as there are slots."""
    name, n = ("n_cmpl", body.n_cmpl) if body.n_cmpl is not None else ("n", _or(body.n, 1))
    check_range(name, n, 1, len(slots_of(service)))
    return n


def sampling_params(service: Service, given: GenerationSettings, n: int, prompt_len: int) -> SamplingParams:
    """Raises Problem for what is out of range."""
    room = service.max_model_len - prompt_len
    bias: dict[int, float] = {}
    for entry in given.logit_bias:
        bias[entry.token] = bias.get(entry.token, 0.0) + (-math.inf if entry.bias is None else entry.bias)
    try:
        return SamplingParams(
            n=n,
            temperature=given.temperature,
            dynatemp_range=max(0.0, given.dynatemp_range),
            dynatemp_exponent=given.dynatemp_exponent,
            top_k=given.top_k,
            top_p=max(given.top_p, ALMOST_NONE),
            min_p=given.min_p,
            top_n_sigma=given.top_n_sigma,
            xtc_probability=given.xtc_probability,
            xtc_threshold=given.xtc_threshold,
            typical_p=min(1.0, max(given.typical_p, ALMOST_NONE)),
            min_keep=given.min_keep,
            repetition_penalty=given.repeat_penalty,
            presence_penalty=given.presence_penalty,
            frequency_penalty=given.frequency_penalty,
            penalty_last_n=given.repeat_last_n,
            dry_multiplier=given.dry_multiplier,
            dry_base=given.dry_base,
            dry_allowed_length=given.dry_allowed_length,
            dry_penalty_last_n=given.dry_penalty_last_n,
            dry_sequence_breakers=given.dry_sequence_breakers,
            mirostat=given.mirostat,
            mirostat_tau=given.mirostat_tau,
            mirostat_eta=given.mirostat_eta,
            adaptive_target=given.adaptive_target,
            adaptive_decay=given.adaptive_decay,
            seed=given.seed,
            stop=given.stop or None,
            ignore_eos=given.ignore_eos,
            max_tokens=room if given.n_predict < 0 else max(1, min(given.n_predict, room)),
            logprobs=given.n_probs or None,
            logprobs_mode="processed" if given.post_sampling_probs else "raw",
            logit_bias=bias or None,
            stages=samplers.stages(given.samplers),
        )
    except RequestError as error:
        name = error.parameter or ""
        own = _OWN_NAMES.get(name, name)
        raise Problem(Kind.INVALID, f"Field '{own}': {str(error).replace(name, own, 1)}", own) from None


def _probabilities(body: GenerationBody, n_probs: int) -> int:
    """How many of the best to report; the OpenAI API has other words for it."""
    if isinstance(body, CompletionBody) and body.n_probs is None:
        n_probs = _or(body.logprobs, n_probs)
    if isinstance(body, ChatBody):
        if body.logprobs:
            n_probs = _or(body.top_logprobs, 20)
        elif body.top_logprobs is not None:
            raise Problem(Kind.INVALID, "top_logprobs requires logprobs to be set to true", "top_logprobs")
    return max(0, n_probs)


def _first_n_predict(service: Service, *fields: int | None) -> int:
    """The server's own limit holds where the request's fields give none, or a greater one."""
    limit = service.options.n_predict
    given = next((n for n in fields if n is not None), limit)
    return given if limit < 0 or 0 <= given <= limit else limit


def _stops(body: GenerationBody) -> list[str]:
    return [text for text in ([body.stop] if isinstance(body.stop, str) else body.stop or []) if text]


def _biases(service: Service, body: GenerationBody, default: dict[int, float], ignore_eos: bool) -> list[LogitBias]:
    """As given; what is there several times adds up."""
    if body.logit_bias is None:
        biases = [LogitBias(None if math.isinf(bias) else bias, token) for token, bias in default.items()]
    else:
        biases = logit_bias(service, body.logit_bias)
    if ignore_eos:
        biases += [LogitBias(None, token) for token in service.llm.tokenizer.eos_ids]
    return biases


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
