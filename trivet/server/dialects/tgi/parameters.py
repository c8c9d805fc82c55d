"""TGI's validation rules, in its order and with its messages, and what its parameters mean to the sampler."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from trivet.sampling.params import TGI_STAGES, SamplingParams
from trivet.server.dialects.tgi.schemas import Parameters
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service

RESERVED_TOKENS = 1024
"""Of `max_new_tokens`, as many must fit the context; more are accepted, and generation ends where it is full."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A validated request. `seed` is that of the first sequence, None where nothing is drawn at random."""

    prompt: list[int]
    params: SamplingParams
    seed: int | None


def check_parameters(service: Service, given: Parameters, inputs: str, stream: bool) -> None:
    """Raises Problem with the message of the first rule that is broken."""
    options = service.options
    best_of = 1 if given.best_of is None else given.best_of

    def need(ok: bool, message: str) -> None:
        if not ok:
            raise Problem(Kind.INVALID, message)

    if stream:
        need(best_of == 1, "`best_of` != 1 is not supported when streaming tokens")
        need(
            not given.decoder_input_details,
            "`decoder_input_details` == true is not supported when streaming tokens",
        )
    if best_of != 1 and options.max_best_of == 1:
        need(False, "`best_of` != 1 is not allowed for this endpoint")
    need(
        1 <= best_of <= options.max_best_of,
        f"`best_of` must be > 0 and <= {options.max_best_of}. Given: {best_of}",
    )
    need(best_of == 1 or samples(given), "you must use sampling when `best_of` is > 1")
    need(given.temperature is None or given.temperature > 0, "`temperature` must be strictly positive")
    need(
        given.repetition_penalty is None or given.repetition_penalty > 0,
        "`repetition_penalty` must be strictly positive",
    )
    need(
        given.frequency_penalty is None or -2 <= given.frequency_penalty <= 2,
        "`frequency_penalty` must be >= -2.0 and <= 2.0",
    )
    need(given.top_p is None or 0 < given.top_p < 1, "`top_p` must be > 0.0 and < 1.0")
    need(given.typical_p is None or 0 < given.typical_p < 1, "`typical_p` must be > 0.0 and < 1.0")
    need(given.top_k is None or given.top_k > 0, "`top_k` must be strictly positive")
    need(given.max_new_tokens is None or given.max_new_tokens > 0, "`max_new_tokens` must be strictly positive")
    stops = len(given.stop or [])
    need(
        stops <= options.max_stop_strings,
        f"`stop` supports up to {options.max_stop_strings} stop sequences. Given: {stops}",
    )
    need(given.seed is None or best_of == 1, "`seed` must not be set when `best_of` > 1")
    top_n = given.top_n_tokens or 0
    need(
        0 <= top_n <= options.max_top_n_tokens,
        f"`top_n_tokens` must be >= 0 and <= {options.max_top_n_tokens}. Given: {top_n}",
    )
    need(inputs != "", "`inputs` cannot be empty")
    max_input = max_input_tokens(service)
    need(
        given.truncate is None or 0 < given.truncate <= max_input,
        f"`truncate` must be strictly positive and less than {max_input}. Given: {given.truncate}",
    )
    need(given.grammar is None, "grammar is not supported")
    need(not given.watermark, "`watermark` is not supported")
    need(not given.adapter_id, f"`adapter_id` {given.adapter_id!r} is not loaded: adapters are not supported")


async def generation(service: Service, given: Parameters, inputs: str) -> Generation:
    """Encode the prompt, check its length, choose the sampling. The parameters must have been checked."""
    prompt = await service.encode(inputs)
    if given.truncate is not None:
        prompt = service.truncate(prompt, given.truncate)
    max_total, max_new = service.max_model_len, given.max_new_tokens
    if max_new is not None and len(prompt) + min(max_new, RESERVED_TOKENS) > max_total:
        raise Problem(
            Kind.INVALID,
            f"`inputs` tokens + `max_new_tokens` must be <= {max_total}. "
            f"Given: {len(prompt)} `inputs` tokens and {min(max_new, RESERVED_TOKENS)} `max_new_tokens`",
        )
    service.check_length(prompt)
    room = max_total - len(prompt)
    seed = None
    if samples(given):
        seed = secrets.randbits(63) if given.seed is None else given.seed
    return Generation(
        prompt,
        SamplingParams(
            n=given.best_of or 1,
            temperature=(given.temperature or 1.0) if samples(given) else 0.0,
            repetition_penalty=given.repetition_penalty or 1.0,
            frequency_penalty=given.frequency_penalty or 0.0,
            top_k=given.top_k or 0,
            top_p=given.top_p or 1.0,
            typical_p=given.typical_p or 1.0,
            seed=seed,
            stop=given.stop or None,
            include_stop_str_in_output=True,
            max_tokens=room if max_new is None else min(max_new, room),
            logprobs=given.top_n_tokens or 0,
            prompt_logprobs=0 if given.decoder_input_details else None,
            stages=TGI_STAGES,
        ),
        seed,
    )


def samples(given: Parameters) -> bool:
    """Setting any warper turns sampling on, whatever `do_sample` says; a temperature of exactly 1 does not."""
    return bool(
        given.do_sample
        or given.temperature not in (None, 1.0)
        or given.top_k is not None
        or given.top_p is not None
        or given.typical_p is not None
    )


def max_input_tokens(service: Service) -> int:
    return service.max_model_len - 1
