"""TGI's dialect over the built-in model."""

from __future__ import annotations

import asyncio
import math
from statistics import mean

import httpx
import pytest

from tests.server.conftest import running
from tests.server.wire import events, post
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.server.options import ServerOptions

PROMPT = "ROMEO:\nWhat"
ALL = {
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.1,
    "return_full_text": True,
    "stop": ["test"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 10,
    "typical_p": 0.9,
    "truncate": 5,
    "watermark": True,
    "top_n_tokens": 3,
    "seed": 0,
}
"""TGI's integration tests ask all of its models for these."""


@pytest.fixture(scope="module")
def url():
    with running(AsyncLLM(EngineArgs()), ServerOptions(dialect="tgi")) as address:
        yield address


def generate(url, inputs=PROMPT, **parameters):
    parameters = {"max_new_tokens": 10, "details": True, **parameters}
    response = post(url, "/generate", {"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def logprobs(tokens):
    return [token["logprob"] for token in tokens]


def test_all_parameters(url):
    whole = generate(url, **ALL)
    assert generate(url, **ALL) == whole and whole["details"]["seed"] == 0
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 10, "details": True, **ALL}}
    streamed = events(post(url, "/generate_stream", body))
    assert [event["token"] for event in streamed] == whole["details"]["tokens"]
    assert [event["top_tokens"] for event in streamed] == whole["details"]["top_tokens"]
    assert streamed[-1]["generated_text"] == whole["generated_text"]
    assert streamed[-1]["details"]["input_length"] == 5
    assert generate(url, **ALL | {"watermark": False}) != whole


def test_logprobs_are_of_what_the_sampling_leaves(url):
    alone = generate(url, top_k=1, top_n_tokens=5)["details"]
    assert logprobs(alone["tokens"]) == [0] * 10
    assert [[token["id"] for token in top] for top in alone["top_tokens"]] == [[t["id"]] for t in alone["tokens"]]
    few = generate(url, top_k=3, temperature=0.7, top_n_tokens=5)["details"]
    for token, top in zip(few["tokens"], few["top_tokens"], strict=True):
        assert token in top and len(top) == 3
        assert sum(map(math.exp, logprobs(top))) == pytest.approx(1, abs=1e-5)


def test_greedy_logprobs_are_those_of_the_prompt_later(url):
    details = generate(url, top_n_tokens=2)["details"]
    assert details["tokens"] == [top[0] for top in details["top_tokens"]]
    text = PROMPT + "".join(token["text"] for token in details["tokens"])
    prefill = generate(url, text, decoder_input_details=True, temperature=0.3)["details"]["prefill"]
    assert prefill[0]["logprob"] is None
    assert [token["id"] for token in prefill[-10:]] == [token["id"] for token in details["tokens"]]
    assert logprobs(prefill[-10:]) == pytest.approx(logprobs(details["tokens"]), abs=1e-4)


def test_best_of(url):
    """The samples are independent: each can be had again by its own seed."""
    best = generate(url, best_of=2, do_sample=True)
    [other] = best["details"]["best_of_sequences"]
    assert mean(logprobs(best["details"]["tokens"])) >= mean(logprobs(other["tokens"]))
    for sequence, seed in ((best, best["details"]["seed"]), (other, other["seed"])):
        assert generate(url, do_sample=True, seed=seed)["generated_text"] == sequence["generated_text"]


def test_the_same_for_all(url):
    async def ask_all():
        async with httpx.AsyncClient(timeout=60, verify=False) as many:
            body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 10, **ALL}}
            return await asyncio.gather(*(many.post(url + "/generate", json=body) for _ in range(4)))

    assert len({response.text for response in asyncio.run(ask_all())}) == 1


def test_the_assistant_goes_on(url):
    """What it said is not said again."""
    messages = [{"role": "user", "content": "Who comes?"}, {"role": "assistant", "content": "It is the"}]
    asked = {"messages": messages, "max_tokens": 8, "temperature": 0}
    templated = post(url, "/chat_tokenize", asked).json()
    assert templated["templated_text"].endswith("It is the")
    answer = post(url, "/v1/chat/completions", asked).json()
    assert answer["usage"]["prompt_tokens"] == len(templated["tokenize_response"])
    assert not answer["choices"][0]["message"]["content"].startswith("It is the")
