"""Beam search over an engine that only samples: every step asks for the likeliest tokens after each beam.

A beam's cache is found again as the prefix of its next request, so that a step computes one token a beam.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trivet.api.outputs import Logprob
from trivet.api.request import GenerateRequest
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import BeamSearchParams

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM


@dataclass
class BeamSearchSequence:
    """`tokens` and `text` begin with the prompt; an end token is the last of `tokens`.

    logprobs: for each generated token, what there was to choose from. cum_logprob: the sum of those chosen.
    finish_reason: "stop" at an end token, "length" otherwise.
    """

    orig_prompt: Any
    tokens: list[int]
    logprobs: list[dict[int, Logprob]]
    lora_request: None = None
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    """The best sequences of a prompt, best first."""

    sequences: list[BeamSearchSequence]


async def beam_search(llm: AsyncLLM, request: GenerateRequest, params: BeamSearchParams) -> BeamSearchOutput:
    """Search for the sequences of the highest score: log-probability / length ** length_penalty.

    As in vLLM, 2 * beam_width tokens are looked at after each beam, and the length is that of prompt and output
    without the end token. Raises RequestError.
    """
    job = await llm.prepare(request)
    ends = set() if params.ignore_eos else set(llm.tokenizer.eos_ids)
    one_token = SamplingParams(temperature=0, max_tokens=1, logprobs=2 * params.beam_width, detokenize=False)

    async def extend(beam: BeamSearchSequence) -> list[BeamSearchSequence]:
        step = GenerateRequest(
            beam.tokens,
            one_token,
            request.request_id,
            priority=request.priority,
            tenant=request.tenant,
            cache_salt=request.cache_salt,
        )
        output = await llm.complete(step)
        [choices] = output.outputs[0].logprobs or [{}]
        return [
            BeamSearchSequence(
                orig_prompt=request.prompt,
                tokens=[*beam.tokens, token],
                logprobs=[*beam.logprobs, choices],
                cum_logprob=beam.cum_logprob + choice.logprob,
                finish_reason="stop" if token in ends else None,
            )
            for token, choice in choices.items()
        ]

    def score(beam: BeamSearchSequence) -> float:
        length = len(beam.tokens) - (beam.tokens[-1] in llm.tokenizer.eos_ids)
        return beam.cum_logprob / max(length, 1) ** params.length_penalty

    def best(beams: list[BeamSearchSequence]) -> list[BeamSearchSequence]:
        return heapq.nlargest(params.beam_width, beams, key=score)

    beams = [BeamSearchSequence(request.prompt, job.prompt, [])]
    completed: list[BeamSearchSequence] = []
    for _ in range(min(params.max_tokens, llm.info.max_model_len - len(job.prompt))):
        candidates = [new for news in await asyncio.gather(*map(extend, beams)) for new in news]
        completed += [new for new in candidates if new.finish_reason]
        beams = best([new for new in candidates if not new.finish_reason])
    for beam in beams:
        beam.finish_reason = "length"
    found = best(completed + beams)
    for beam in found:
        beam.text = llm.tokenizer.decode(beam.tokens, skip_special=params.skip_special_tokens)
    return BeamSearchOutput(found)
