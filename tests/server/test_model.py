"""`trivet serve` with a real model, greedy: the same text in every dialect, and the clients' examples as printed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import openai
import pytest
from huggingface_hub import InferenceClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.test_serve import Served
from tests.server.wire import events, get, post, until
from trivet.server.dialects.anthropic.schemas import MessagesBody
from trivet.server.dialects.llamacpp.schemas import ChatBody as LlamacppChatBody
from trivet.server.dialects.llamacpp.schemas import CompletionBody as LlamacppBody
from trivet.server.dialects.openai.responses.schemas import ResponsesBody
from trivet.server.dialects.openai.schemas import ChatBody, CompletionBody
from trivet.server.dialects.tgi.schemas import Parameters

MODEL = Path(__file__).parents[3] / "shared/models/stories260k/stories260k.gguf"
PROMPT = "Once upon a time"
IDS = [
    *(432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292),
    *(411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426),
]
TEXT = ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
"""As shared/README.md gives them, from transformers and llama.cpp."""

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there")


@pytest.fixture(scope="module")
def url():
    served = Served("-m", "trivet", "serve", str(MODEL), "--port", "0", "-a", "stories")
    yield served.url()
    served.signal()
    code, _, err = served.end()
    assert code == 0 and "Traceback" not in err


def test_openai(url):
    body = {"model": "stories", "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "return_token_ids": True}
    whole = post(url, "/v1/completions", body).json()
    [choice] = whole["choices"]
    assert (choice["text"], choice["token_ids"], choice["finish_reason"]) == (TEXT, IDS, "length")
    assert choice["prompt_token_ids"] == [1, 403, 407, 261, 378]
    *chunks, _ = events(post(url, "/v1/completions", body | {"stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == IDS


def test_tgi(url):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 40, "details": True}}
    details = post(url, "/generate", body).json()["details"]
    assert [token["id"] for token in details["tokens"]] == IDS
    assert "".join(token["text"] for token in details["tokens"]) == TEXT
    streamed = events(post(url, "/generate_stream", body))
    assert [event["token"] for event in streamed] == details["tokens"]
    assert streamed[-1]["generated_text"] == TEXT


def test_llamacpp(url):
    body = {"prompt": PROMPT, "n_predict": 40, "temperature": 0, "return_tokens": True}
    whole = post(url, "/completion", body).json()
    assert (whole["content"], whole["tokens"], whole["prompt"]) == (TEXT, IDS, "<s> Once upon a time")
    *partial, final = events(post(url, "/completion", body | {"stream": True}))
    assert "".join(event["content"] for event in partial) == TEXT
    assert [token for event in partial for token in event["tokens"]] == IDS
    assert final["tokens_predicted"] == 40


@pytest.mark.parametrize("stop", ["Lily", ["zzz", "park. "]])
def test_stop_strings(url, stop):
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "stop": stop}
    expected = TEXT.partition(stop if isinstance(stop, str) else stop[-1])[0]
    assert post(url, "/v1/completions", body).json()["choices"][0]["text"] == expected
    *chunks, _ = events(post(url, "/v1/completions", body | {"stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


def test_logprobs(url):
    body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "logprobs": 3, "echo": True}
    got = post(url, "/v1/completions", body).json()["choices"][0]
    logprobs = got["logprobs"]
    assert got["text"] == PROMPT + ", there was a little"
    assert logprobs["tokens"] == ["<s>", " Once", " upon", " a", " time", ",", " there", " was", " a", " little"]
    assert logprobs["token_logprobs"][0] is None and all(value < 0 for value in logprobs["token_logprobs"][1:])
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top is None or (len(top) in (3, 4) and top[token] == value)
    generated = zip(logprobs["tokens"][5:], logprobs["top_logprobs"][5:], strict=True)
    assert all(top[token] == max(top.values()) for token, top in generated)


def test_seeds(url):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 30, "do_sample": True, "details": True}}
    first = post(url, "/generate", body).json()
    body["parameters"]["seed"] = first["details"]["seed"]
    assert post(url, "/generate", body).json() == first
    body["parameters"]["seed"] += 1
    assert post(url, "/generate", body).json() != first


def test_many_at_once(url):
    async def ask_all():
        async with httpx.AsyncClient(timeout=60, verify=False) as many:
            body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
            return await asyncio.gather(*(many.post(url + "/v1/completions", json=body) for _ in range(32)))

    responses = asyncio.run(ask_all())
    assert {response.json()["choices"][0]["text"] for response in responses} == {TEXT}


def test_context_end(url):
    whole = post(url, "/completion", {"prompt": PROMPT, "seed": 1, "ignore_eos": True}).json()
    assert whole["tokens_predicted"] == 512 - 5 and whole["truncated"]
    refused = post(url, "/completion", {"prompt": "word " * 600}).json()["error"]
    assert refused["type"] == "exceed_context_size_error" and refused["n_ctx"] == 512


def test_readme_example(url):
    r = InferenceClient(model=url).text_generation(
        "Tell me a story", max_new_tokens=100, temperature=0.8, top_p=0.95, repetition_penalty=1.1, details=True
    )
    assert r.generated_text.startswith("Tell me a story") and r.details.generated_tokens > 1
    client = InferenceClient(model=url)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=40, stream=True)) == TEXT


def test_openai_package(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="none") as client:
        fields = {"model": "stories", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20}
        whole = client.chat.completions.create(temperature=0, **fields)
        stream = client.chat.completions.create(temperature=0, stream=True, **fields)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content and len(text) > 10


NUMBERS = st.sampled_from(
    [
        *(-1, 0, 1, 2, 17, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**30, -(10**30)),
        *(5e-324, 1e-30, 1e-10, -0.0, 0.5, 1.0, 1e30, 3.5e38, 1e308, -1e308),
    ]
)
VALUES = NUMBERS | st.sampled_from([None, True, "", "x", "9" * 5000, [], [1], [None], {}, {"1": 1e39}, {"a": 1}])
SAID = [{"role": "user", "content": "a"}]
FUZZED: dict[str, tuple[dict[str, object], list[str]]] = {
    "/v1/completions": ({"prompt": "Once", "max_tokens": 3}, list(CompletionBody.__struct_fields__)),
    "/v1/chat/completions": ({"messages": SAID}, list(ChatBody.__struct_fields__)),
    "/v1/messages": (
        {"model": "stories", "max_tokens": 3, "messages": SAID},
        list(MessagesBody.__struct_fields__),
    ),
    "/v1/responses": ({"input": "Once", "max_output_tokens": 3}, list(ResponsesBody.__struct_fields__)),
    "/generate": ({"inputs": "Once"}, list(Parameters.__struct_fields__)),
    "/chat/completions": (
        {"messages": [{"role": "user", "content": "a"}], "n_predict": 3},
        list(LlamacppChatBody.__struct_fields__),
    ),
    "/completion": ({"prompt": "Once", "n_predict": 3}, list(LlamacppBody.__struct_fields__)),
}


@pytest.mark.parametrize("path", FUZZED)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_asked_for(url, path, data):
    """Any request is answered or refused, and does not hurt the engine."""
    body, names = FUZZED[path]
    fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    if path == "/generate":
        fields = {"parameters": {"max_new_tokens": 3} | fields}
    if path == "/v1/chat/completions":
        fields.setdefault("max_tokens", 3)
    response = post(url, path, body | fields)
    assert response.status_code in (200, 400, 404, 422, 429), response.text


def test_it_ends_up_empty(url):
    def value(name):
        line = next(line for line in get(url, "/metrics").text.splitlines() if line.startswith(name + "{"))
        return float(line.split()[-1])

    until(lambda: value("vllm:num_requests_running") == value("vllm:kv_cache_usage_perc") == 0)
    assert value("vllm:generation_tokens_total") > 0
    assert get(url, "/health").status_code == 200
