"""The server over real engines, whose model is the hash of `tests.engine.fake`: what goes on between them."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import msgspec
import psutil
import pytest

from tests.engine.fake import Options, make
from tests.server.fake_llm import byte_model
from tests.server.wire import client, events, get, post, until
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.engine.config import EngineConfig
from trivet.engine.inprocess import InProcessClient
from trivet.engine.process import ProcessClient


def engine(kind, options=None, **settings):
    config = EngineConfig(model=msgspec.json.encode(options or Options()).decode(), **settings)
    thread = kind == "thread"
    own = InProcessClient(config, make) if thread else ProcessClient(config, "tests.engine.fake:make")
    return AsyncLLM(EngineArgs(byte_model(), served_model_name="hash"), own)


def prompt(length, seed=0):
    """Token ids: the hash's vocabulary is smaller than the tokenizer's."""
    return random.Random(seed).choices(range(97), k=length)


def ask(length=20, *, variant=0, **fields):
    return {"prompt": prompt(length, variant), "max_tokens": 40, "ignore_eos": True, **fields}


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_alone_and_together(serve, kind):
    """A request's answer does not depend on what else runs, nor on how it is sent."""
    url = serve(engine(kind, max_num_seqs=8, num_blocks=40, max_num_batched_tokens=32))
    bodies = [ask(10 + 7 * i, variant=i, seed=i, logprobs=0) for i in range(12)]
    alone = [post(url, "/v1/completions", body).json()["choices"] for body in bodies]

    async def together():
        async with httpx.AsyncClient(timeout=60, verify=False) as many:
            jobs = [
                many.post(url + "/v1/completions", json=body | {"stream": bool(i % 2)}) for i, body in enumerate(bodies)
            ]
            return await asyncio.gather(*jobs)

    for i, response in enumerate(asyncio.run(together())):
        if i % 2:
            *chunks, _ = events(response)
            choices = [chunk["choices"][0] for chunk in chunks]
            got = [name for choice in choices for name in choice["logprobs"]["tokens"]]
            assert "".join(choice["text"] for choice in choices) == alone[i][0]["text"]
            assert got == alone[i][0]["logprobs"]["tokens"]
        else:
            assert response.json()["choices"] == alone[i]


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_blocks(serve, kind, stream):
    llm = engine(kind, Options(step_seconds=0.02))
    url = serve(llm)
    body = ask(100, stream=stream, n=2, temperature=1)
    if stream:
        with client.stream("POST", url + "/v1/completions", json=body | {"max_tokens": 150}) as response:
            lines = response.iter_lines()
            next(lines)
            until(lambda: llm.stats().blocks_used > 0)
    else:
        with pytest.raises(httpx.ReadTimeout):
            post(url, "/v1/completions", body | {"max_tokens": 150}, timeout=0.5)
    until(lambda: llm.stats().running == llm.stats().blocks_used == 0)
    assert "vllm:num_requests_running{" in get(url, "/metrics").text
    assert post(url, "/v1/completions", ask()).status_code == 200


def test_an_engine_that_dies_in_a_stream(serve):
    """The client notices nothing: no token is lost, none comes twice."""
    undisturbed = serve(engine("process"))
    expected = post(undisturbed, "/v1/completions", ask(seed=3, max_tokens=100)).json()["choices"][0]["text"]
    url = serve(engine("process", Options(step_seconds=0.02)))
    before = set(psutil.Process().children(recursive=True))
    body = ask(seed=3, stream=True, max_tokens=100)
    text = ""
    with client.stream("POST", url + "/v1/completions", json=body) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        for number, line in enumerate(lines):
            if number == 10:
                newest = max(before, key=psutil.Process.create_time)
                newest.kill()
            if line == "[DONE]":
                break
            text += msgspec.json.decode(line)["choices"][0]["text"]
    assert text == expected
    assert get(url, "/health").status_code == 200


def test_overload(serve):
    url = serve(engine("thread", Options(step_seconds=0.02), max_num_seqs=1, max_queue=1))

    async def crowd():
        async with httpx.AsyncClient(timeout=60, verify=False) as many:
            return await asyncio.gather(*(many.post(url + "/v1/completions", json=ask(seed=i)) for i in range(6)))

    responses = asyncio.run(crowd())
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429, 429]
    refused = next(response for response in responses if response.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "n": 3}),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 3}),
        ("/completion", {"prompt": ["a", "b", "c"]}),
    ],
)
def test_more_sequences_than_ever_find_a_place(serve, path, body):
    """Waiting would not help."""
    response = post(serve(engine("thread", max_num_seqs=1, max_queue=1)), path, body)
    assert response.status_code == 400 and "2 run or wait at most" in response.text, response.text


def test_a_request_that_fails_fails_alone(serve):
    url = serve(engine("thread", Options(nan=96)))
    failed = post(url, "/v1/completions", {"prompt": [5, 96], "max_tokens": 3})
    assert failed.status_code == 500 and "non-finite" in failed.json()["error"]["message"]
    assert post(url, "/v1/completions", {"prompt": [5, 6], "max_tokens": 1}).status_code == 200


def test_prefix_hits_are_told(serve):
    url = serve(engine("thread"), prompt_tokens_details=True)
    first, second = (post(url, "/v1/completions", ask(65, seed=1)).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    assert [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in (first, second)] == [0, 64]
    salted = post(url, "/completion", {"prompt": prompt(65), "n_predict": 2, "cache_prompt": False}).json()
    assert salted["timings"]["cache_n"] == 0
    assert post(url, "/completion", {"prompt": prompt(65), "n_predict": 2}).json()["timings"]["cache_n"] == 64


def test_idle_is_idle(serve):
    serve(engine("process"))
    process = psutil.Process()
    time.sleep(0.3)
    before = process.cpu_times()
    time.sleep(1)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.05
