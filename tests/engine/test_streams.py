"""What a stream gives to a reader who is slower than the engine."""

from __future__ import annotations

import asyncio

import pytest

from trivet.engine.request import TokenChunk, TokenLogprob
from trivet.engine.streams import TokenStream

FIRST = {"tokens": [1], "cached_tokens": 3, "queued_at": 1.0, "scheduled_at": 2.0}
PROGRESS = [{"prompt_done": 4}, {"prompt_done": 8}, {"tokens": [1]}]
ERROR = {"finish_reason": "error", "error": "no"}


def chunk(**fields) -> TokenChunk:
    return TokenChunk(request_id="r", **fields)


def logprobs(*tokens: int) -> list[TokenLogprob]:
    return [TokenLogprob(token, -0.5, 1, []) for token in tokens]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ([FIRST], [FIRST]),
        (
            [FIRST | {"emitted_at": 3.0}, {"tokens": [2], "emitted_at": 4.0}, {"tokens": [3], "emitted_at": 5.0}],
            [FIRST | {"tokens": [1, 2, 3], "first_emitted_at": 3.0, "emitted_at": 5.0}],
        ),
        (
            [
                {"tokens": [1], "logprobs": logprobs(1)},
                {"tokens": [2], "logprobs": logprobs(2), "sampler_state": (1.0,)},
            ],
            [{"tokens": [1, 2], "logprobs": logprobs(1, 2), "sampler_state": (1,)}],
        ),
        (
            [{"tokens": [1]}, {"tokens": [2], "finish_reason": "stop", "stop_token": 2, "preemptions": 4}],
            [{"tokens": [1, 2], "finish_reason": "stop", "stop_token": 2, "preemptions": 4}],
        ),
        ([{"tokens": [1]}, {"finish_reason": "abort"}], [{"tokens": [1], "finish_reason": "abort"}]),
        ([{"tokens": [1]}, {"tokens": [2]}, ERROR], [{"tokens": [1, 2]}, ERROR]),
        (PROGRESS, PROGRESS),
    ],
)
async def test_what_piled_up(sent, read):
    queue: asyncio.Queue[TokenChunk] = asyncio.Queue()
    stream = TokenStream(queue, lambda: None)
    for fields in sent:
        queue.put_nowait(chunk(**{**fields, "tokens": list(fields.get("tokens", []))}))
    assert [await anext(stream) for _ in read] == [chunk(**fields) for fields in read]
    assert queue.empty()
