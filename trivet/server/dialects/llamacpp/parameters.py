"""llama.cpp's request fields and defaults, and what they mean to the sampler."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any

from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams
from trivet.server.dialects.llamacpp.schemas import CompletionBody, GenerationSettings, LogitBias
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

RANDOM_SEED = 0xFFFFFFFF
SAMPLERS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "penalties": ("penalties", ("e",)),
    "dry": (None, ("d",)),
    "top_n_sigma": (None, ("s", "top-n-sigma")),
    "top_k": ("top_k", ("k", "top-k")),
    "typ_p": ("typical_p", ("y", "typical", "typical_p", "typical-p", "typ-p", "typ")),
    "top_p": ("top_p", ("p", "top-p", "nucleus")),
    "min_p": ("min_p", ("m", "min-p")),
    "xtc": (None, ("x",)),
    "temperature": ("temperature", ("t", "temp")),
}
"""llama.cpp's samplers in their default order: the stage here, and other names. Those without a stage do nothing
unless a parameter is set that is refused.
"""
ALIASES = {alias: name for name, (_, aliases) in SAMPLERS.items() for alias in aliases}
REFUSED_SAMPLERS = ("infill", "i", "adaptive_p", "a")

UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "n_indent": lambda value: value <= 0,
    "t_max_predict_ms": lambda value: value <= 0,
    "return_progress": lambda value: not value,
    "dynatemp_range": lambda value: value == 0,
    "top_n_sigma": lambda value: value <= 0,
    "xtc_probability": lambda value: value == 0,
    "dry_multiplier": lambda value: value == 0,
    "mirostat": lambda value: value == 0,
    "adaptive_target": lambda value: value < 0,
    "min_keep": lambda value: value <= 1,
    "post_sampling_probs": lambda value: not value,
    "grammar": lambda value: value == "",
    "json_schema": lambda value: False,
    "lora": lambda value: not value,
}
"""Fields not supported, with the test for values that ask for nothing."""

_NAMES = {"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty", "logprobs": "n_probs", "n": "n_cmpl"}


def settings(service: Service, body: CompletionBody) -> GenerationSettings:
    """Apply the defaults; draw the seed. Raises Problem for what is not supported."""
    for name, neutral in UNSUPPORTED.items():
        value = getattr(body, name)
        if value is not None and not neutral(value):
            raise Problem(Kind.INVALID, f"Field '{name}': not supported by this server", name)
    seed = _or(body.seed, -1)
    n_predict = next((n for n in (body.n_predict, body.max_tokens, body.max_completion_tokens) if n is not None), -1)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return GenerationSettings(
        seed=secrets.randbits(32) if seed in (-1, RANDOM_SEED) else seed,
        temperature=max(0.0, _or(body.temperature, 0.8)),
        top_k=max(0, _or(body.top_k, 40)),
        top_p=_or(body.top_p, 0.95),
        min_p=_or(body.min_p, 0.05),
        typical_p=_or(body.typical_p, 1.0),
        repeat_last_n=_or(body.repeat_last_n, 64),
        repeat_penalty=_or(body.repeat_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        stop=[text for text in stop if text],
        max_tokens=n_predict,
        n_predict=n_predict,
        n_keep=_or(body.n_keep, 0),
        n_discard=_or(body.n_discard, 0),
        ignore_eos=bool(body.ignore_eos),
        stream=bool(body.stream),
        logit_bias=logit_bias(service, body),
        n_probs=_or(body.n_probs, _or(body.logprobs, 0)),
        samplers=samplers(body.samplers),
        timings_per_token=bool(body.timings_per_token),
    )


def sampling_params(service: Service, given: GenerationSettings, n: int, prompt_len: int) -> SamplingParams:
    """Raises RequestError for what is out of range."""
    room = service.max_model_len - prompt_len
    bias = {entry.token: -math.inf if entry.bias is None else entry.bias for entry in given.logit_bias}
    top_p_keeps_one = given.top_p <= 0
    tempered = "temperature" in given.samplers
    try:
        return SamplingParams(
            n=n,
            temperature=given.temperature if tempered else 1.0,
            top_k=1 if top_p_keeps_one else given.top_k,
            top_p=1.0 if top_p_keeps_one else min(1.0, given.top_p),
            min_p=min(1.0, max(0.0, given.min_p)),
            typical_p=min(1.0, given.typical_p),
            repetition_penalty=given.repeat_penalty,
            presence_penalty=given.presence_penalty,
            frequency_penalty=given.frequency_penalty,
            penalty_last_n=service.max_model_len if given.repeat_last_n == -1 else given.repeat_last_n,
            seed=given.seed,
            stop=given.stop or None,
            ignore_eos=given.ignore_eos,
            max_tokens=room if given.n_predict < 0 else max(1, min(given.n_predict, room)),
            logprobs=given.n_probs or None,
            logit_bias=bias or None,
            stages=tuple(stage for name in given.samplers if (stage := SAMPLERS[name][0]) is not None),
        )
    except RequestError as error:
        name = error.parameter or ""
        own = _NAMES.get(name, name)
        raise Problem(Kind.INVALID, f"Field '{own}': {str(error).replace(name, own, 1)}", own) from None


def samplers(given: str | list[str] | None) -> list[str]:
    """Canonical names in order; unknown ones are skipped. A string holds one character for each."""
    if given is None:
        return list(SAMPLERS)
    for name in given:
        if name in REFUSED_SAMPLERS:
            raise Problem(Kind.INVALID, f"Field 'samplers': {name} is not supported by this server", "samplers")
    return [name for name in (ALIASES.get(name, name) for name in given) if name in SAMPLERS]


def logit_bias(service: Service, body: CompletionBody) -> list[LogitBias]:
    """Entries [token or text, bias or false], or an object of the same; false forbids the token."""
    given = body.logit_bias or []
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list):
        raise Problem(Kind.INVALID, "Field 'logit_bias': expected a list or an object", "logit_bias")
    result: dict[int, float | None] = {}
    for pair in pairs:
        match pair:
            case [int() | str() as what, int() | float() as bias]:
                for token in _biased(service, what):
                    result[token] = None if bias is False else float(bias)
            case _:
                message = f"Field 'logit_bias': expected [token or text, bias or false], got {pair!r:.100}"
                raise Problem(Kind.INVALID, message, "logit_bias")
    if body.ignore_eos:
        result |= dict.fromkeys(service.llm.tokenizer.eos_ids)
    return [LogitBias(bias, token) for token, bias in result.items()]


def _biased(service: Service, what: int | str) -> list[int]:
    if isinstance(what, str):
        if what.isdecimal() and len(what) < 20:
            what = int(what)
        else:
            return service.llm.tokenizer.encode(what, add_special=False)
    if not 0 <= what < service.llm.info.vocab_size:
        raise Problem(Kind.INVALID, f"Field 'logit_bias': token {what} is not in the vocabulary", "logit_bias")
    return [what]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
