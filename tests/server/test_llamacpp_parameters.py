from __future__ import annotations

import math

import pytest

from tests.server.fake_llm import EOS, FakeLLM
from tests.server.wire import client, post
from trivet.sampling.params import LLAMACPP_STAGES


def body(**fields):
    return {"prompt": "hi", **fields}


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
    assert params.stages == LLAMACPP_STAGES
    neutral = ("dynatemp_range", "xtc_probability", "dry_multiplier", "mirostat", "min_keep")
    assert [getattr(params, name) for name in neutral] == [0] * 5
    assert (params.top_n_sigma, params.adaptive_target, params.logprobs_mode) == (-1, -1, "raw")
    assert (params.dry_penalty_last_n, params.dry_sequence_breakers) == (64, ["\n", ":", '"', "*"])
    assert params.seed == settings["seed"] and 0 <= params.seed < 2**32
    assert request.cache_salt == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"top_k": -5}, {"top_k": 0}),
        ({"top_p": 0, "typical_p": 0}, {"top_k": 40, "top_p": 1e-9, "typical_p": 1e-9}),
        ({"typical_p": 1.5}, {"typical_p": 1.0}),
        ({"top_p": 1.5, "min_p": -1}, {"top_p": 1.0, "min_p": 0.0}),
        ({"repeat_last_n": -1, "dry_penalty_last_n": -1}, {"penalty_last_n": 256, "dry_penalty_last_n": 256}),
        ({"repeat_last_n": 0}, {"penalty_last_n": 0}),
        ({"presence_penalty": 3, "frequency_penalty": -5}, {"presence_penalty": 3.0, "frequency_penalty": -5.0}),
        ({"dynatemp_range": 0.5, "dynatemp_exponent": 2}, {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
        ({"dynatemp_range": -0.5}, {"dynatemp_range": 0.0}),
        ({"top_n_sigma": 1.5, "min_keep": 3}, {"top_n_sigma": 1.5, "min_keep": 3}),
        ({"xtc_probability": 2, "xtc_threshold": -1}, {"xtc_probability": 1.0, "xtc_threshold": 0.0}),
        (
            {"dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3, "dry_sequence_breakers": ["x"]},
            {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_sequence_breakers": ["x"]},
        ),
        ({"dry_base": 0.5}, {"dry_base": 1.75}),
        ({"mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2}, {"mirostat": 2, "mirostat_tau": 4.0}),
        ({"mirostat": 7}, {"mirostat": 2}),
        ({"adaptive_target": 0.5, "adaptive_decay": 0.5}, {"adaptive_target": 0.5, "adaptive_decay": 0.5}),
        ({"adaptive_target": 5}, {"adaptive_target": 1.0}),
        ({"samplers": "edskypmxtia"}, {"stages": (*LLAMACPP_STAGES, "infill", "adaptive_p")}),
        (
            {"samplers": ["nucleus", "typ", "temp", "top-n-sigma"]},
            {"stages": ("top_p", "typical_p", "temperature", "top_n_sigma")},
        ),
        ({"samplers": []}, {"stages": ()}),
        ({"post_sampling_probs": True, "n_probs": 2}, {"logprobs": 2, "logprobs_mode": "processed"}),
        ({"n_probs": -1}, {"logprobs": None}),
        ({"n_probs": 2000}, {"logprobs": 2000}),
        ({"seed": 2**32 + 5}, {"seed": 5}),
        ({"temperature": None, "samplers": None, "stop": None, "seed": None}, {"temperature": 0.8}),
        ({"logit_bias": [[50, 1], [50, 2], ["h", False], [104, 9]]}, {"logit_bias": {50: 3.0, 104: -math.inf}}),
        ({"seed": 7}, {"seed": 7}),
        ({"samplers": "kt"}, {"stages": ("top_k", "temperature"), "temperature": 0.8}),
        ({"samplers": ["min_p", "nope", "temp"]}, {"stages": ("min_p", "temperature")}),
        ({"samplers": ["top_k"], "temperature": 0}, {"stages": ("top_k",), "temperature": 0.0}),
        ({"logit_bias": [[50, 1.5], ["hi", False]]}, {"logit_bias": {50: 1.5, 104: -math.inf, 105: -math.inf}}),
        ({"logit_bias": {"50": 2, "h": -1}}, {"logit_bias": {50: 2.0, 104: -1.0}}),
        ({"logit_bias": [["50", 2]]}, {"logit_bias": {ord("5"): 2.0, ord("0"): 2.0}}),
        ({"ignore_eos": True}, {"logit_bias": {EOS: -math.inf}, "ignore_eos": True}),
        ({"n_predict": None, "max_tokens": 9, "top_k": None}, {"max_tokens": 9, "top_k": 40}),
        ({"n_probs": 3}, {"logprobs": 3}),
        ({"logprobs": 3}, {"logprobs": 3}),
        ({"n_predict": 5, "max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 5}),
        ({"max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"lora": [], "grammar": "", "reasoning_format": "auto", "reasoning_budget_tokens": -1}, {}),
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
        ({"grammar": "root ::= a"}, "grammar is not supported by this server: grammars and JSON schemas"),
        ({"json_schema": {}}, "json_schema is not supported"),
        ({"grammar_lazy": True}, "grammar_lazy is not supported"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora is not supported"),
        ({"reasoning_format": "deepseek"}, "reasoning_format is not supported"),
        ({"n_predict": -2}, "Field 'n_predict': Value must be between -1 <= value <= 2147483647, but got -2"),
        ({"max_tokens": 2**31}, "Field 'max_tokens': Value must be"),
        ({"repeat_last_n": -2}, "Field 'repeat_last_n': Value must be"),
        ({"dry_allowed_length": -1}, "Field 'dry_allowed_length': Value must be"),
        ({"adaptive_decay": 1}, "Field 'adaptive_decay': Value must be between 0 <= value <= 0.99, but got 1"),
        ({"min_keep": -1}, "Field 'min_keep': Value must be"),
        ({"n_indent": -1}, "Field 'n_indent': Value must be"),
        ({"n_keep": -2}, "Field 'n_keep': Value must be"),
        ({"sse_ping_interval": -2}, "Field 'sse_ping_interval': Value must be"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers must be a non-empty array of strings"),
        ({"dry_multiplier": -1}, "Field 'dry_multiplier': dry_multiplier must be 0 or greater, got -1"),
        ({"id_slot": 8}, "Field 'id_slot': slots go from 0 to 7 (-1: any), got 8"),
        ({"id_slot": -2}, "Field 'id_slot'"),
        ({"logit_bias": 5}, "Field 'logit_bias': expected a list or an object"),
        ({"logit_bias": [[50, True]]}, "Field 'logit_bias': expected"),
        ({"logit_bias": [[True, 1]]}, "Field 'logit_bias': expected"),
        ({"repeat_penalty": 0}, "Field 'repeat_penalty': repeat_penalty must be greater than 0, got 0"),
        ({"logit_bias": [[50]]}, "Field 'logit_bias': expected"),
        ({"logit_bias": {"999": 1}}, "Field 'logit_bias': token 999 is not in the vocabulary"),
        ({"logit_bias": [[999, 1]]}, "Field 'logit_bias': token 999 is not in the vocabulary"),
        ({"temperature": "hot"}, "Expected `float | null`, got `str` - at `$.temperature`"),
        ({"prompt": None}, '"prompt" elements must be'),
        ({"prompt": 5}, '"prompt" elements must be'),
        ({"prompt": [True]}, '"prompt" elements must be'),
        ({"prompt": []}, "must hold 1 to 1024 prompts, got 0"),
        ({"prompt": [[1]] * 1025}, "must hold 1 to 1024 prompts, got 1025"),
        ({"n_cmpl": 9}, "Field 'n_cmpl': Value must be between 1 <= value <= 8, but got 9"),
        ({"n": 0}, "Field 'n': Value must be between 1 <= value <= 8, but got 0"),
    ],
    ids=str,
)
def test_refusals(url, fields, message):
    for stream in (False, True):
        response = post(url, "/completion", body(stream=stream) | fields)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
        assert message in error["message"]


DEFAULTS = {
    "temperature": 0.0,
    "top_k": 5,
    "repetition_penalty": 1.2,
    "penalty_last_n": -1,
    "stages": ("top_k", "temperature"),
    "stop": ["Q:"],
    "seed": 42,
    "logit_bias": {50: -math.inf},
    "xtc_probability": 0.5,
}


def test_what_the_makers_recommend_is_between_the_two_defaults(serve):
    llm = FakeLLM()
    url = serve(llm, sampling_defaults={"top_k": 5})
    llm.recommended_params = {
        "temperature": 0.6,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "penalty_last_n": 9,
        "max_tokens": 3,
        "stages": ("top_k",),
        "mirostat": 2,
    }
    expected = {"temperature": 0.6, "top_k": 5, "min_p": 0.05, "repeat_penalty": 1.1, "repeat_last_n": 9}
    expected |= {"samplers": ["top_k"], "mirostat": 2, "n_predict": -1}
    shown = client.get(url + "/props").json()["default_generation_settings"]["params"]
    for settings in (settings_of(url), shown):
        assert {name: settings[name] for name in expected if name in settings} == expected
    assert settings_of(url, temperature=0.1)["temperature"] == 0.1


def test_the_servers_own_defaults(serve):
    llm = FakeLLM()
    url = serve(llm, sampling_defaults=DEFAULTS, n_predict=7)
    settings = settings_of(url)
    expected = {
        "temperature": 0.0,
        "top_k": 5,
        "repeat_penalty": 1.2,
        "repeat_last_n": 256,
        "samplers": ["top_k", "temperature"],
        "stop": ["Q:"],
        "seed": 42,
        "logit_bias": [{"bias": None, "token": 50}],
        "n_predict": 7,
        "max_tokens": 7,
        "min_p": 0.05,
    }
    assert {name: settings[name] for name in expected} == expected
    params = llm.requests[0].params
    assert (params.stages, params.xtc_probability, params.max_tokens) == (("top_k", "temperature"), 0.5, 7)
    given = settings_of(url, temperature=1, samplers="t", stop="x", seed=1, logit_bias=[], n_predict=5)
    assert (given["temperature"], given["samplers"], given["stop"]) == (1.0, ["temperature"], ["x"])
    assert (given["seed"], given["logit_bias"], given["n_predict"]) == (1, [], 5)
    for more in (-1, 9):
        assert settings_of(url, n_predict=more)["n_predict"] == 7
    assert settings_of(url, stop=[""])["stop"] == ["Q:"]
    assert settings_of(url, n_predict=0)["n_predict"] == 0
    shown = client.get(url + "/props").json()["default_generation_settings"]["params"]
    assert (shown["seed"], shown["temperature"], shown["n_predict"]) == (42, 0.0, 7)
