"""What the fields of TGI's OpenAI-like API mean in TGI's own parameters, and what its answers begin with."""

from __future__ import annotations

import time
from typing import Any

from trivet import __version__
from trivet.sampling.params import TGI_STAGES, check_added_penalties
from trivet.server.dialects.tgi.openai_schemas import OpenAIBody
from trivet.server.dialects.tgi.schemas import Parameters
from trivet.server.service import Service

STAGES = (*("penalties" if stage == "tgi_penalties" else stage for stage in TGI_STAGES), "min_p")
"""TGI's, with the penalties that OpenAI's API promises: TGI itself takes a presence penalty for a repetition penalty
of 2 more, and divides frequencies by the length of the text.
"""

FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
"""TGI calls the last one `stop_sequence` in some answers and `eos_token` the other in some; OpenAI's clients know
only these.
"""


def parameters(body: OpenAIBody, max_tokens: int | None, top_n: int) -> Parameters:
    """A temperature of 0 is greedy; any other, and none, samples. Of top_p, 1 is OpenAI's default; TGI refuses it."""
    greedy = body.temperature == 0
    return Parameters(
        do_sample=not greedy,
        temperature=None if greedy else body.temperature,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        top_k=body.top_k,
        top_p=None if body.top_p == 1 else body.top_p,
        max_new_tokens=max_tokens,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop,
        seed=body.seed,
        top_n_tokens=top_n,
    )


def further_parameters(body: OpenAIBody) -> dict[str, Any]:
    """Those that TGI's own API lacks. Raises RequestError."""
    check_added_penalties(body.presence_penalty, body.frequency_penalty)
    given = {"presence_penalty": body.presence_penalty, "logit_bias": body.logit_bias, "min_p": body.min_p}
    return {"stages": STAGES, **{name: value for name, value in given.items() if value is not None}}


def head(service: Service, body: OpenAIBody) -> dict[str, Any]:
    """The fields that every answer begins with. TGI takes other names than its model's for adapters, uses the model
    where it has none of that name, and calls it in the answer as it was called.
    """
    return {
        "created": int(time.time()),
        "model": service.name if body.model in (None, "", "tgi") else body.model,
        "system_fingerprint": f"{__version__}-native",
    }
