from __future__ import annotations

import math

import pytest

from tests.server.fake_llm import ANSWER, EOS, TOKENS, FakeLLM
from tests.server.wire import client, events, post

SETTINGS = [
    *("seed", "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
    *("stop", "max_tokens", "n_predict", "n_keep", "n_discard", "ignore_eos", "stream", "logit_bias", "n_probs"),
    *("min_keep", "grammar", "grammar_lazy", "grammar_triggers", "preserved_tokens", "chat_format"),
    *("reasoning_format", "reasoning_in_content", "generation_prompt", "samplers", "speculative.types"),
    *("timings_per_token", "post_sampling_probs", "backend_sampling", "lora"),
]
FINAL = [
    *("index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted", "tokens_evaluated"),
    *("generation_settings", "prompt", "has_new_line", "truncated", "stop_type", "stopping_word"),
    *("tokens_cached", "timings"),
]


def body(prompt="hi", **fields):
    return {"prompt": prompt, **fields}


def test_whole_golden(url):
    got = post(url, "/completion", body(n_predict=3, seed=5)).json()
    assert list(got) == FINAL
    settings, timings = got.pop("generation_settings"), got.pop("timings")
    assert got == {
        "index": 0,
        "content": "Lil",
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": "fake",
        "tokens_predicted": 3,
        "tokens_evaluated": 3,
        "prompt": "<s>hi",
        "has_new_line": False,
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "tokens_cached": 5,
    }
    assert list(timings) == [
        *("cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"),
        *("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"),
    ]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (0, 3, 3)
    defaults = {
        "seed": 5,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.0,
        "n_predict": 3,
        "stop": [],
        "logit_bias": [],
        "speculative.types": "none",
    }
    assert {name: settings[name] for name in defaults} == defaults
    assert list(settings) == SETTINGS


def test_stream_golden(url):
    *partial, final = events(post(url, "/completion", body(n_predict=2, stream=True)))
    assert partial == [
        {
            "index": 0,
            "content": content,
            "tokens": [ord(content)],
            "stop": False,
            "id_slot": 0,
            "tokens_predicted": count,
            "tokens_evaluated": 3,
        }
        for count, content in enumerate("Li", 1)
    ]
    assert list(final) == FINAL
    assert (final["content"], final["tokens"], final["stop"], final["stop_type"]) == ("", [], True, "limit")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_predict": 5},
        {"stop": "caf"},
        {"stop": ["zz", "\nShe", ""]},
        {"n_probs": 2},
        {"n_cmpl": 2},
        {"prompt": ["hi", "ho"]},
        {"prompt": [[1, 50], "ho"], "n_cmpl": 2},
        {"prompt": [1, "hi", 50]},
        {"prompt": {"prompt_string": "hi"}},
        {"timings_per_token": True},
        {"n_predict": 0},
        {"n_probs": 3, "post_sampling_probs": True},
        {"n_indent": 1},
        {"id_slot": 2},
    ],
    ids=str,
)
def test_stream_adds_up_to_the_whole(url, fields):
    request = body(seed=1, return_tokens=True) | fields
    whole = post(url, "/completion", request).json()
    prompt = fields.get("prompt")
    several = "n_cmpl" in fields or (isinstance(prompt, list) and prompt[0] != 1)
    assert isinstance(whole, list) == several
    got = events(post(url, "/completions", request | {"stream": True}))
    for result in whole if several else [whole]:
        *partial, final = (event for event in got if event["index"] == result["index"])
        assert all(not event["stop"] for event in partial) and final["stop"]
        assert "".join(event["content"] for event in partial) == result["content"]
        tokens = [token for event in partial for token in event["tokens"]]
        assert tokens == result["tokens"][: len(tokens)]
        for name in ("tokens_predicted", "stop_type", "stopping_word", "truncated", "has_new_line", "prompt"):
            assert final[name] == result[name]
        assert final["id_slot"] == fields.get("id_slot", final["id_slot"])
        if "n_probs" in fields:
            probabilities = [entry for event in partial for entry in event["completion_probabilities"]]
            assert probabilities == result["completion_probabilities"]
        if "timings_per_token" in fields:
            assert [event["timings"]["predicted_n"] for event in partial][-1] <= result["tokens_predicted"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("eos", "", False, len(TOKENS), ANSWER)),
        ({"stop": ["saw"]}, ("word", "saw", False, 8, "Lily ")),
        ({"n_predict": 4}, ("limit", "", False, 4, "Lily")),
        ({"n_predict": 0}, ("limit", "", False, 0, "")),
        ({"prompt": [1] * 254}, ("limit", "", True, 2, "Li")),
        ({"prompt": [1] * 254, "n_predict": 9}, ("limit", "", True, 2, "Li")),
        ({"prompt": [1] * 254, "n_predict": 2}, ("limit", "", False, 2, "Li")),
    ],
    ids=str,
)
def test_finish(url, fields, expected):
    got = post(url, "/completion", body() | fields).json()
    names = ("stop_type", "stopping_word", "truncated", "tokens_predicted", "content")
    assert tuple(got[name] for name in names) == expected
    assert got["has_new_line"] == ("\n" in got["content"])


def test_probabilities(url):
    got = post(url, "/completion", body(n_predict=1, n_probs=1)).json()["completion_probabilities"]
    best = {"id": ord("K"), "token": "K", "bytes": [ord("K")], "logprob": -0.25}
    assert got == [{"id": ord("L"), "token": "L", "bytes": [ord("L")], "logprob": -0.5, "top_logprobs": [best]}]


def test_probabilities_after_sampling_without_chance(url):
    request = body(n_predict=1, n_probs=2, post_sampling_probs=True, temperature=0)
    [got] = post(url, "/completion", request).json()["completion_probabilities"]
    assert got["prob"] == 1 and [top["prob"] for top in got["top_probs"]] == [0, 1]
    [got] = post(url, "/completion", request | {"samplers": "k"}).json()["completion_probabilities"]
    assert got["prob"] < 1


def test_probabilities_after_sampling(url, llm):
    request = body(n_predict=1, n_probs=2, post_sampling_probs=True)
    [got] = post(url, "/completion", request).json()["completion_probabilities"]
    top = [{"id": ord(char), "token": char, "bytes": [ord(char)], "prob": math.exp(p)} for char, p in PROBABLE]
    assert got == top[1] | {"top_probs": top}
    assert llm.requests[0].params.logprobs_mode == "processed"


PROBABLE = [("K", -0.25), ("L", -0.5)]
"""What the fake engine says of the answer's first token."""


@pytest.mark.parametrize(
    ("answer", "n_indent", "content", "made"),
    [
        ("one\ntwo", 1, "one\n", 5),
        ("one\n\n two", 1, "one\n", 5),
        ("one\n  two\n three\nfour", 1, "one\n  two\n three\n", 18),
        ("one\n  two\n three\nfour", 2, "one\n  two\n ", 12),
        ("one\n\ttwo", 1, "one\n\ttwo", 9),
        ("one\n  two\nfour", 0, "one\n  two\nfour", 15),
    ],
)
def test_indentation(serve, answer, n_indent, content, made):
    """A line that is indented by less ends the text, with what indentation it has."""
    url = serve(FakeLLM(answer=[*answer.encode(), EOS]))
    got = post(url, "/completion", body(n_indent=n_indent)).json()
    expected = (content, "eos" if content == answer else "limit", False, made)
    assert (got["content"], got["stop_type"], got["truncated"], got["tokens_predicted"]) == expected
    *partial, final = events(post(url, "/completion", body(stream=True, n_indent=n_indent)))
    assert "".join(event["content"] for event in partial) == content
    assert (final["stop_type"], final["tokens_predicted"]) == (got["stop_type"], got["tokens_predicted"])


def test_time_limit(serve):
    """It holds from the first line break on."""
    url = serve(FakeLLM(answer=[*b"ab\ncdefghijklmnop", EOS], delay=0.02))
    got = post(url, "/completion", body(t_max_predict_ms=1)).json()
    assert got["content"] == "ab\n" and got["stop_type"] == "limit"
    assert post(url, "/completion", body(t_max_predict_ms=60_000)).json()["stop_type"] == "eos"


def test_progress(url):
    request = body("x" * 40, n_predict=2, return_progress=True)
    got = events(post(url, "/completion", request | {"stream": True}))
    told = [event["prompt_progress"] for event in got if "prompt_progress" in event]
    assert [(p["total"], p["cache"], p["processed"]) for p in told] == [(41, 2, 2), (41, 2, 20), (41, 2, 41)]
    assert list(told[0]) == ["total", "cache", "processed", "time_ms"]
    assert ["stop" in event and event["content"] for event in got] == ["", "", "", "L", "i", ""]
    assert "prompt_progress" not in post(url, "/completion", request).json()


def test_response_fields(url):
    fields = ["content", "generation_settings/top_k", "timings/predicted_n", "nothing/here"]
    got = post(url, "/completion", body(n_predict=2, response_fields=fields)).json()
    assert got == {"content": "Li", "generation_settings/top_k": 40, "timings/predicted_n": 2}


def test_errors(url, serve):
    error = post(url, "/completion", body("x" * 300)).json()["error"]
    assert error == {
        "code": 400,
        "message": "request (301 tokens) exceeds the available context size (256 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 301,
        "n_ctx": 256,
    }
    response = client.post(url + "/completion", content=b"{")
    assert response.status_code == 400 and "JSON" in response.json()["error"]["message"]
    response = post(serve(FakeLLM(overloaded=True)), "/completion", body(stream=True))
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    failing = serve(FakeLLM(fail_after=2))
    error = {"code": 500, "message": "the engine died", "type": "server_error"}
    response = post(failing, "/completion", body())
    assert (response.status_code, response.json()) == (500, {"error": error})
    assert events(post(failing, "/completion", body(stream=True)))[2:] == [{"error": error}]
