"""TGI's validation rules, in its order and with its messages, and what its parameters mean to the sampler."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from trivet.api.outputs import CompletionOutput
from trivet.api.request import GenerateRequest
from trivet.sampling.params import TGI_STAGES, SamplingParams
from trivet.server.dialects.tgi.schemas import Parameters
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.service import Service

RESERVED_TOKENS = 1024
"""Of `max_new_tokens`, as many must fit the context; more are accepted, and generation ends where it is full."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A validated request. `seed` is that of the first sequence, None where nothing is drawn at random; `validation`
    is how many seconds it took.
    """

    prompt: list[int]
    params: SamplingParams
    seed: int | None
    validation: float

    def request(self, request_id: str) -> GenerateRequest:
        return GenerateRequest(self.prompt, self.params, request_id)

    def seed_of(self, sequence: CompletionOutput) -> int | None:
        """What to give as `seed` to get this sequence again."""
        return None if self.seed is None else (self.seed + sequence.index) % 2**64

    def finish_reason(self, sequence: CompletionOutput, generated: int) -> str:
        """The limit comes first: also the last token that was allowed may be an end token."""
        if sequence.finish_reason == "length" or generated == self.params.max_tokens:
            return "length"
        return "eos_token" if sequence.stop_reason is None else "stop_sequence"


async def generation(
    service: Service,
    given: Parameters,
    inputs: str,
    *,
    stream: bool = False,
    add_special: bool = True,
    **more: Any,
) -> Generation:
    """Check the parameters, encode the prompt, check its length, choose the sampling.

    add_special: whether the tokenizer's special tokens go around the prompt. more: further sampling parameters.
    Raises Problem with the message of the first rule that is broken; OverloadedError comes before them all.
    """
    service.check_open()
    started = time.perf_counter()
    _check_parameters(service, given, inputs, stream)
    prompt = await service.encode(inputs, add_special)
    if given.truncate is not None:
        prompt = service.truncate(prompt, given.truncate)
    max_total, max_input = service.max_model_len, service.max_input_tokens
    room = max(0, max_total - len(prompt))
    max_new = room if given.max_new_tokens is None else given.max_new_tokens
    reserved = min(max_new, RESERVED_TOKENS)
    _need(
        len(prompt) + reserved <= max_total,
        f"`inputs` tokens + `max_new_tokens` must be <= {max_total}. "
        f"Given: {len(prompt)} `inputs` tokens and {reserved} `max_new_tokens`",
    )
    _need(
        len(prompt) <= max_input,
        f"`inputs` must have less than {max_input} tokens. Given: {len(prompt)}",
    )
    _need(given.grammar is None, "grammar is not supported")
    refuse_unsupported(given)
    seed = None
    if samples(given):
        seed = secrets.randbits(63) if given.seed is None else given.seed
    settings = {
        "n": given.best_of or 1,
        "temperature": (given.temperature or 1.0) if samples(given) else 0.0,
        "repetition_penalty": given.repetition_penalty or 1.0,
        "frequency_penalty": given.frequency_penalty or 0.0,
        "top_k": given.top_k or 0,
        "top_p": given.top_p or 1.0,
        "typical_p": given.typical_p or 1.0,
        "watermark": bool(given.watermark),
        "seed": seed,
        "stop": given.stop or None,
        "stop_token_ids": _special_tokens(service, given.stop or []),
        "include_stop_str_in_output": True,
        "stop_at_token_ends": True,
        "max_tokens": min(max_new, room),
        "logprobs": given.top_n_tokens or 0,
        "logprobs_mode": "processed",
        "prompt_logprobs": 0 if given.decoder_input_details else None,
        "stages": TGI_STAGES,
    }
    params = SamplingParams(**settings | more)
    seconds = time.perf_counter() - started
    service.metrics.observe("validation", seconds)
    return Generation(prompt, params, seed, seconds)


def samples(given: Parameters) -> bool:
    """Setting any warper turns sampling on, whatever `do_sample` says; a temperature of exactly 1 does not."""
    return bool(
        given.do_sample
        or given.temperature not in (None, 1.0)
        or given.top_k is not None
        or given.top_p is not None
        or given.typical_p is not None
    )


def _special_tokens(service: Service, stops: list[str]) -> list[int]:
    """Those that are stop strings: they have no text in the answer, where stop strings are looked for."""
    tokenizer = service.llm.tokenizer
    # Longer texts are no token's, and would take long to encode.
    encoded = [tokenizer.encode(stop, add_special=False) for stop in stops if len(stop) <= 256]
    single = [ids[0] for ids in encoded if len(ids) == 1]
    return [token for token in single if tokenizer.is_special(token) and token not in tokenizer.eos_ids]


def _need(ok: bool, message: str) -> None:
    if not ok:
        raise Problem(Kind.INVALID, message)


def _check_parameters(service: Service, given: Parameters, inputs: str, stream: bool) -> None:
    """The rules that need no tokens."""
    options = service.options
    best_of = 1 if given.best_of is None else given.best_of
    if stream:
        _need(best_of == 1, "`best_of` != 1 is not supported when streaming tokens")
        _need(
            not given.decoder_input_details,
            "`decoder_input_details` == true is not supported when streaming tokens",
        )
    _need(best_of == 1 or options.max_best_of > 1, "`best_of` != 1 is not allowed for this endpoint")
    _need(
        1 <= best_of <= options.max_best_of,
        f"`best_of` must be > 0 and <= {options.max_best_of}. Given: {best_of}",
    )
    _need(best_of == 1 or samples(given), "you must use sampling when `best_of` is > 1")
    _need(given.temperature is None or given.temperature > 0, "`temperature` must be strictly positive")
    _need(
        given.repetition_penalty is None or given.repetition_penalty > 0,
        "`repetition_penalty` must be strictly positive",
    )
    _need(
        given.frequency_penalty is None or -2 <= given.frequency_penalty <= 2,
        "`frequency_penalty` must be >= -2.0 and <= 2.0",
    )
    _need(given.top_p is None or 0 < given.top_p < 1, "`top_p` must be > 0.0 and < 1.0")
    _need(given.typical_p is None or 0 < given.typical_p < 1, "`typical_p` must be > 0.0 and < 1.0")
    _need(given.top_k is None or given.top_k > 0, "`top_k` must be strictly positive")
    _need(given.max_new_tokens is None or given.max_new_tokens > 0, "`max_new_tokens` must be strictly positive")
    stops = len(given.stop or [])
    _need(
        stops <= options.max_stop_strings,
        f"`stop` supports up to {options.max_stop_strings} stop sequences. Given: {stops}",
    )
    _need(given.seed is None or best_of == 1, "`seed` must not be set when `best_of` > 1")
    top_n = given.top_n_tokens or 0
    _need(
        0 <= top_n <= options.max_top_n_tokens,
        f"`top_n_tokens` must be >= 0 and <= {options.max_top_n_tokens}. Given: {top_n}",
    )
    _need(inputs != "", "`inputs` cannot be empty")
    max_input = service.max_input_tokens
    _need(
        given.truncate is None or 0 < given.truncate <= max_input,
        f"`truncate` must be strictly positive and less than {max_input}. Given: {given.truncate}",
    )
