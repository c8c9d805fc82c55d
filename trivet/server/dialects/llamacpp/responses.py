"""POST /v1/responses: OpenAI's Responses API, sampled as llama.cpp's server does."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.sampling.params import SamplingParams
from trivet.server.dialects.llamacpp.parameters import draw_seed, sampling_params, settings
from trivet.server.dialects.llamacpp.schemas import GenerationBody
from trivet.server.dialects.openai.responses.create import respond
from trivet.server.dialects.openai.responses.schemas import ResponsesBody
from trivet.server.service import Service

SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"),
    *("seed", "stop", "ignore_eos"),
)
"""Fields that mean here what they mean in llama.cpp's own requests."""


async def create_response(service: Service, request: Request) -> Response:
    """Answer an input, whole, streamed, in the background or both."""
    return await respond(service, request, sampling)


def sampling(service: Service, body: ResponsesBody, prompt_len: int, logprobs: int | None) -> SamplingParams:
    """As in llama.cpp's own requests. Raises Problem."""
    given = settings(
        service,
        GenerationBody(
            **{name: getattr(body, name) for name in SAMPLING_FIELDS},
            logit_bias=None if body.logit_bias is None else list(body.logit_bias.items()),
            repeat_penalty=body.repetition_penalty,
            max_tokens=body.max_output_tokens,
        ),
    )
    draw_seed(given)
    params = sampling_params(service, given, 1, prompt_len)
    params.logprobs = logprobs
    params.include_stop_str_in_output = bool(body.include_stop_str_in_output)
    params.skip_special_tokens = body.skip_special_tokens is not False
    return params
