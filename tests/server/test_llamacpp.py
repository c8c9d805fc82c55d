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
        "tokens_cached": 6,
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


def test_response_fields(url):
    fields = ["content", "generation_settings/top_k", "timings/predicted_n", "nothing/here"]
    got = post(url, "/completion", body(n_predict=2, response_fields=fields)).json()
    assert got == {"content": "Li", "generation_settings/top_k": 40, "timings/predicted_n": 2}


def settings_of(url, **fields):
    response = post(url, "/completion", body(**fields))
    assert response.status_code == 200, response.text
    return response.json()["generation_settings"]


def test_defaults_reach_the_engine(url, llm):
    settings = settings_of(url)
    [request] = llm.requests
    params = request.params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.penalty_last_n, params.max_tokens, params.n) == (64, 253, 1)
    assert params.stages == ("penalties", "top_k", "typical_p", "top_p", "min_p", "temperature")
    assert params.seed == settings["seed"] and 0 <= params.seed < 2**32
    assert request.cache_salt == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"top_k": -5}, {"top_k": 0}),
        ({"top_p": 0}, {"top_k": 1, "top_p": 1.0}),
        ({"top_p": 1.5, "min_p": -1}, {"top_p": 1.0, "min_p": 0.0}),
        ({"repeat_last_n": -1}, {"penalty_last_n": 256}),
        ({"seed": 7}, {"seed": 7}),
        ({"samplers": "kt"}, {"stages": ("top_k", "temperature"), "temperature": 0.8}),
        ({"samplers": ["min_p", "nope", "temp"]}, {"stages": ("min_p", "temperature")}),
        ({"samplers": ["top_k"], "temperature": 0}, {"stages": ("top_k",), "temperature": 1.0}),
        ({"logit_bias": [[50, 1.5], ["hi", False]]}, {"logit_bias": {50: 1.5, 104: -math.inf, 105: -math.inf}}),
        ({"logit_bias": {"50": 2, "h": -1}}, {"logit_bias": {50: 2.0, 104: -1.0}}),
        ({"ignore_eos": True}, {"logit_bias": {EOS: -math.inf}, "ignore_eos": True}),
        ({"n_predict": None, "max_tokens": 9, "top_k": None}, {"max_tokens": 9, "top_k": 40}),
        ({"n_probs": 3}, {"logprobs": 3}),
        ({"logprobs": 3}, {"logprobs": 3}),
        ({"mirostat": 0, "dry_multiplier": 0, "xtc_probability": 0, "top_n_sigma": -1, "lora": []}, {}),
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        ({"n_keep": 5, "id_slot": 3, "unknown": 1, "sse_ping_interval": 3}, {}),
    ],
    ids=str,
)
def test_fields(url, llm, fields, expected):
    settings_of(url, **fields)
    [request] = llm.requests
    assert {name: getattr(request.params, name) for name in expected} == expected


def test_ignore_eos_is_shown_as_a_bias(url):
    assert settings_of(url, ignore_eos=True)["logit_bias"] == [{"bias": None, "token": EOS}]


def test_cache_prompt_false_shares_nothing(url, llm):
    for _ in range(2):
        post(url, "/completion", body(cache_prompt=False))
    first, second = (request.cache_salt for request in llm.requests)
    assert first and second and first != second


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grammar": "root ::= a"}, "Field 'grammar': not supported"),
        ({"json_schema": {}}, "Field 'json_schema': not supported"),
        ({"mirostat": 2}, "Field 'mirostat': not supported"),
        ({"dry_multiplier": 0.8}, "Field 'dry_multiplier': not supported"),
        ({"top_n_sigma": 1}, "Field 'top_n_sigma': not supported"),
        ({"return_progress": True}, "Field 'return_progress': not supported"),
        ({"samplers": ["infill"]}, "infill is not supported"),
        ({"repeat_penalty": 0}, "Field 'repeat_penalty': repeat_penalty must be greater than 0, got 0"),
        ({"presence_penalty": 3}, "Field 'presence_penalty': presence_penalty must be between -2 and 2"),
        ({"typical_p": 0}, "Field 'typical_p'"),
        ({"logit_bias": [[50]]}, "Field 'logit_bias': expected"),
        ({"logit_bias": [[999, 1]]}, "Field 'logit_bias': token 999 is not in the vocabulary"),
        ({"temperature": "hot"}, "Expected `float | null`, got `str` - at `$.temperature`"),
        ({"prompt": None}, '"prompt" elements must be'),
        ({"prompt": 5}, '"prompt" elements must be'),
        ({"prompt": [True]}, '"prompt" elements must be'),
        ({"prompt": []}, "must hold 1 to 1024 prompts, got 0"),
        ({"prompt": [[1]] * 1025}, "must hold 1 to 1024 prompts, got 1025"),
        ({"prompt": [[1]] * 2, "n_cmpl": 9000}, "more than 16384 sequences"),
        ({"n_cmpl": 0}, "Field 'n_cmpl': n_cmpl must be between 1"),
    ],
    ids=str,
)
def test_refusals(url, fields, message):
    for stream in (False, True):
        response = post(url, "/completion", body(stream=stream) | fields)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
        assert message in error["message"]


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


@pytest.mark.parametrize(
    ("path", "request_body", "answer"),
    [
        ("/tokenize", {"content": "hi"}, {"tokens": [104, 105]}),
        ("/tokenize", {"content": "hi", "add_special": True}, {"tokens": [256, 104, 105]}),
        ("/tokenize", {"content": [50, "h"]}, {"tokens": [50, 104]}),
        (
            "/tokenize",
            {"content": "é", "with_pieces": True},
            {"tokens": [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]},
        ),
        (
            "/tokenize",
            {"prompt": "hi"},
            {"count": 3, "max_model_len": 256, "tokens": [256, 104, 105], "token_strs": None},
        ),
        (
            "/tokenize",
            {"model": "fake", "prompt": "h", "add_special_tokens": False, "return_token_strs": True},
            {"count": 1, "max_model_len": 256, "tokens": [104], "token_strs": ["h"]},
        ),
        ("/detokenize", {"tokens": [256, 104, 105]}, {"prompt": "<s>hi", "content": "<s>hi"}),
    ],
)
def test_tokenize(url, path, request_body, answer):
    assert post(url, path, request_body).json() == answer


def test_tokenize_chat(url):
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    assert post(url, "/tokenize", messages).json()["count"] == len("user: hi\nassistant: ")
    shorter = post(url, "/tokenize", messages | {"add_generation_prompt": False}).json()
    assert shorter["count"] == len("user: hi\n")


@pytest.mark.parametrize(
    ("path", "request_body", "status", "kind"),
    [
        ("/tokenize", {"content": 5}, 400, "invalid_request_error"),
        ("/tokenize", {"prompt": 5}, 400, "Bad Request"),
        ("/tokenize", {}, 400, "Bad Request"),
        ("/tokenize", {"prompt": "a", "model": "x"}, 404, "NotFoundError"),
        ("/detokenize", {"tokens": [999]}, 400, "BadRequestError"),
    ],
)
def test_tokenize_errors(url, path, request_body, status, kind):
    response = post(url, path, request_body)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
