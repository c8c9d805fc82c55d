"""What llama.cpp's own server tests assert of stories260K, asked of a server pinned to its dialect.

Counts of tokens and greedy texts are exact; what is drawn depends on random numbers that are not llama.cpp's.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.server.conftest import running
from tests.server.test_model import MODEL
from tests.server.wire import client, events, get, post
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.server.options import ServerOptions

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there")

LIFE = "I believe the meaning of life is"
LONG = "Write a joke about AI from a very long prompt which will not be truncated"
BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]
EXCLUDED = ["i", "I", "the", "The", "to", "a", "an", "be", "is", "was", "but", "But", "and", "And", "so", "So", "you"]


def started(folder, **options):
    """llama.cpp's preset: a context of 256 for each of 2 slots, --predict 64 --temp 0.8 --seed 42."""
    args = EngineArgs(
        str(MODEL), served_model_name="tinyllama-2", max_model_len=256, max_num_seqs=2, max_num_batched_tokens=64
    )
    defaults = {"n_predict": 64, "sampling_defaults": {"temperature": 0.8, "seed": 42}}
    return running(AsyncLLM(args), ServerOptions(dialect="llamacpp", slot_save_path=folder, **defaults | options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def url(folder):
    with started(folder) as address:
        yield address


def complete(url, prompt=LIFE, **fields):
    return post(url, "/completion", {"prompt": prompt, **fields}).json()


def chat(url, messages=BOOK, **fields):
    return post(url, "/chat/completions", {"messages": messages, **fields}).json()


@pytest.mark.parametrize(
    ("prompt", "n_predict", "prompt_n", "predicted_n"), [(LIFE, 8, 18, 8), (LONG, 256, 46, 64)], ids=["8", "256"]
)
@pytest.mark.parametrize("return_tokens", [False, True])
def test_completion(url, prompt, n_predict, prompt_n, predicted_n, return_tokens):
    fields = {"n_predict": n_predict, "return_tokens": return_tokens, "cache_prompt": False}
    got = complete(url, prompt, **fields)
    assert (got["timings"]["prompt_n"], got["timings"]["predicted_n"]) == (prompt_n, predicted_n)
    assert got["truncated"] is False and isinstance(got["has_new_line"], bool)
    assert len(got["tokens"]) == (predicted_n if return_tokens else 0)
    *partial, final = events(post(url, "/completion", {"prompt": prompt, "stream": True, **fields}))
    assert all(event["tokens"] for event in partial)
    assert "".join(event["content"] for event in partial) == got["content"]
    assert (final["stop_type"], final["timings"]["prompt_n"]) == ("limit", prompt_n)
    settings = final["generation_settings"]
    assert (settings["n_predict"], settings["seed"]) == (min(n_predict, 64), 42)


def test_models(url):
    [entry] = get(url, "/models").json()["data"]
    assert (entry["id"], entry["owned_by"]) == ("tinyllama-2", "llamacpp")
    assert entry["meta"] == {
        "vocab_type": 1,
        "n_vocab": 512,
        "n_ctx": 256,
        "n_ctx_train": 512,
        "n_embd": 64,
        "n_params": 260032,
        "size": entry["meta"]["size"],
        "ftype": "f32",
    }


def test_seeds(url):
    assert len({complete(url, seed=7, temperature=1.0)["content"] for _ in range(3)}) == 1
    assert len({complete(url, seed=seed, temperature=1.0)["content"] for seed in range(4)}) == 4


def test_prompts_of_tokens(url):
    tokens = post(url, "/tokenize", {"content": LIFE, "add_special": True}).json()["tokens"]
    texts = [
        complete(url, LIFE)["content"],
        complete(url, tokens)["content"],
        *(one["content"] for one in complete(url, [tokens, LIFE])),
    ]
    assert len(set(texts)) == 1
    assert complete(url, [1, 2, 3, 4, 5, 6, LIFE, 7, 8, 9, 10, LIFE])["tokens_evaluated"] == 10 + 2 * 17


def test_response_fields(url):
    fields = ["content", "generation_settings/n_predict", "prompt"]
    got = complete(url, n_predict=32, response_fields=fields)
    assert list(got) == fields and got["prompt"] == "<s> " + LIFE and got["generation_settings/n_predict"] == 32


@pytest.mark.parametrize(("after", "number", "top"), [(False, "logprob", "top_logprobs"), (True, "prob", "top_probs")])
def test_n_probs(url, after, number, top):
    fields = {"prompt": LIFE, "n_probs": 10, "temperature": 0, "n_predict": 5, "post_sampling_probs": after}
    got = complete(url, **fields)["completion_probabilities"]
    assert len(got) == 5
    for token in got:
        assert list(token) == ["id", "token", "bytes", number, top] and len(token[top]) == 10
        assert all(entry["id"] > 0 and isinstance(entry["bytes"], list) for entry in token[top])
        if after:
            assert token["prob"] == max(entry["prob"] for entry in token[top]) == 1.0
        else:
            assert token["logprob"] == max(entry["logprob"] for entry in token[top]) <= 0
    streamed = events(post(url, "/completion", {**fields, "stream": True}))
    assert [event["completion_probabilities"] for event in streamed if not event["stop"]] == [[one] for one in got]


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_logit_bias(url, by_token, as_object):
    text = " " + " ".join(EXCLUDED) + " "
    tokens = post(url, "/tokenize", {"content": text}).json()["tokens"]
    pairs = [[token, -100] for token in tokens] if by_token else [[f" {word} ", -100] for word in EXCLUDED]
    bias = {str(what): value for what, value in pairs} if as_object else pairs
    got = complete(url, "What is the best book", temperature=0, logit_bias=bias)["content"]
    assert got and not any(f" {word} " in got for word in EXCLUDED)


def test_ignore_eos(url):
    got = complete(url, "Once upon a time", ignore_eos=True)
    assert got["tokens_predicted"] == 64 and got["stop_type"] == "limit"
    assert got["generation_settings"]["logit_bias"] == [{"bias": None, "token": 2}]


@pytest.mark.parametrize(("n_predict", "predicted", "truncated"), [(64, 64, False), (-1, 248, True)])
def test_the_context_is_not_shifted(folder, n_predict, predicted, truncated):
    with started(folder, n_predict=-1) as url:
        got = complete(url, "Hi how are you", n_predict=n_predict, ignore_eos=True)
        assert (got["timings"]["predicted_n"], got["truncated"]) == (predicted, truncated)
        error = complete(url, LONG * 8, n_predict=64)["error"]
        assert "exceeds the available context size (256 tokens)" in error["message"] and error["code"] == 400


CODE = [
    {"role": "system", "content": "You are a coding assistant."},
    {"role": "user", "content": "Write the fibonacci function in c++."},
]
PARTS = [BOOK[0], BOOK[1] | {"content": [{"type": "text", "text": text} for text in ("What is", "the best book")]}]
HEY = [BOOK[0], {"role": "user", "content": "Hey"}]


@pytest.mark.parametrize(
    ("messages", "prompt_tokens"),
    [(HEY, 69), (BOOK, 77), (CODE, 104), (PARTS, 79)],
    ids=["hey", "book", "code", "parts"],
)
def test_chat(url, messages, prompt_tokens):
    got = chat(url, messages, max_tokens=8)
    assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (prompt_tokens, 8)
    assert got["choices"][0]["finish_reason"] == "length" and got["system_fingerprint"].startswith("b")
    request = {"messages": messages, "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, _ = events(post(url, "/chat/completions", request))
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == got["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["prompt_tokens"] == prompt_tokens
    counted = post(url, "/chat/completions/input_tokens", {"messages": messages}).json()
    assert counted["input_tokens"] == prompt_tokens


def test_chat_logprobs_with_the_openai_package(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="dummy") as api:
        fields = {"model": "any", "messages": BOOK, "max_tokens": 5, "logprobs": True, "top_logprobs": 10}
        [choice] = api.chat.completions.create(temperature=0, **fields).choices
        assert "".join(token.token for token in choice.logprobs.content).strip() == choice.message.content.strip()
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 10 for token in choice.logprobs.content)


def test_progress(url):
    def ask():
        request = {"messages": [{"role": "user", "content": "This is a test" * 10}], "max_tokens": 10, "stream": True}
        got = events(post(url, "/chat/completions", request | {"return_progress": True}))[:-1]
        return [chunk["prompt_progress"] for chunk in got if "prompt_progress" in chunk]

    cold, warm = ask(), ask()
    for told in (cold, warm):
        done = [one["processed"] for one in told]
        assert done[0] == told[0]["cache"] and done == sorted(set(done)) and done[-1] == told[0]["total"]
    assert (len(cold), len(warm), cold[0]["cache"]) == (4, 2, 0) and warm[0]["cache"] > 0


def test_slots_are_saved_and_restored_across_a_restart(folder):
    france, germany = "What is the capital of France?", "What is the capital of Germany?"
    greedy = {"temperature": 0, "return_tokens": True}
    with started(folder) as url:
        first = complete(url, france, id_slot=1, **greedy)
        assert re.search("Whiskers|Flana", first["content"]) and first["timings"]["prompt_n"] == 21
        assert first["tokens_cached"] == 84
        saved = post(url, "/slots/1?action=save", {"filename": "slot1.bin"}).json()
        assert saved["n_saved"] == 80, "whole blocks of 16"
        assert saved["n_written"] == (folder / "slot1.bin").stat().st_size
        changed = complete(url, germany, id_slot=1, **greedy)
        assert re.search("Jack|said", changed["content"]) and changed["timings"]["prompt_n"] == 6
    story = france + first["content"]
    with started(folder) as url:
        cold = complete(url, germany, **greedy)
        assert (cold["timings"]["prompt_n"], cold["content"]) == (22, changed["content"])
        cold_story = complete(url, story, n_probs=3, **greedy)
    with started(folder) as url:
        restored = post(url, "/slots/0?action=restore", {"filename": "slot1.bin"}).json()
        assert (restored["n_restored"], restored["n_read"]) == (80, saved["n_written"])
        warm = complete(url, germany, id_slot=0, **greedy)
        assert (warm["timings"]["prompt_n"], warm["content"], warm["tokens"]) == (6, cold["content"], cold["tokens"])
        warm_story = complete(url, story, n_probs=3, **greedy)
        assert warm_story["timings"]["cache_n"] == 80
        assert warm_story["completion_probabilities"] == cold_story["completion_probabilities"]
        post(url, "/slots/0?action=erase", {})
        complete(url, france, id_slot=1)
        assert post(url, "/slots/1?action=erase", {}).json()["id_slot"] == 1
        assert complete(url, france, id_slot=1, **greedy)["timings"]["prompt_n"] == 21
        (folder / "bad.bin").write_bytes((folder / "slot1.bin").read_bytes()[:-1])
        error = post(url, "/slots/0?action=restore", {"filename": "bad.bin"}).json()["error"]
        assert error["code"] == 400 and "invalid slot save file" in error["message"]
        assert complete(url, "The quick brown fox")["content"]


def test_many_at_once(url):
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: complete(url, "Write a very long book.", temperature=0), range(6)))
    assert len({one["content"] for one in got}) == 1
    assert not any(slot["is_processing"] for slot in get(url, "/slots").json())


def test_metrics(folder):
    with started(folder) as url:
        timings = [complete(url, prompt, n_predict=8)["timings"] for prompt in (LIFE, LONG, LIFE)]
        response = client.get(url + "/metrics")
        values = dict(re.findall(r"^(llamacpp:\w+) (\S+)$", response.text, re.M))
        types = dict(re.findall(r"^# TYPE (llamacpp:\w+) (\w+)$", response.text, re.M))
        assert float(response.headers["process-start-time-unix"]) > 0
        sums = {
            "llamacpp:prompt_tokens_total": sum(one["prompt_n"] for one in timings),
            "llamacpp:prompt_tokens_cached_total": sum(one["cache_n"] for one in timings),
            "llamacpp:tokens_predicted_total": 24,
            "llamacpp:n_tokens_max": 46 + 8,
            "llamacpp:requests_processing": 0,
            "llamacpp:requests_deferred": 0,
        }
        assert {name: float(values[name]) for name in sums} == sums
        assert float(values["llamacpp:n_decode_total"]) >= 24
        for name in ("prompt_tokens_seconds", "predicted_tokens_seconds", "n_busy_slots_per_decode"):
            assert float(values[f"llamacpp:{name}"]) > 0 and types[f"llamacpp:{name}"] == "gauge"
        again = dict(re.findall(r"^(llamacpp:\w+) (\S+)$", client.get(url + "/metrics").text, re.M))
        assert float(again["llamacpp:predicted_tokens_seconds"]) == 0, "what was generated since the last scrape"
        for name in values.keys() - {"llamacpp:n_tokens_max"}:
            assert types[name] == ("counter" if name.endswith("_total") else "gauge")
