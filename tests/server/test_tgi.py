from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.api.scripted import EXTRA
from tests.server.fake_llm import ANSWER, BOS, EOS, TOKENS, FakeLLM
from tests.server.wire import events, post
from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput, TokenText
from trivet.sampling.params import TGI_STAGES, SamplingParams
from trivet.server.dialects.tgi.answer import Answer
from trivet.server.dialects.tgi.parameters import Generation
from trivet.server.dialects.tgi.schemas import Parameters
from trivet.server.dialects.tgi.tokens import TokenWriter, shortest


def body(inputs="hi", **parameters):
    return {"inputs": inputs, "parameters": parameters}


def token(text, **more):
    return {"id": ord(text), "text": text, "logprob": -0.5, "special": False, **more}


def test_generate_golden(url):
    """Transcript A1 of the reference, with this fake's answer."""
    response = post(url, "/generate", body(max_new_tokens=2, details=True))
    assert response.json() == {
        "generated_text": "Li",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 2,
            "seed": None,
            "prefill": [],
            "tokens": [token("L"), token("i")],
        },
    }
    assert list(response.json()["details"]) == [
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
    ]
    headers = response.headers
    assert headers["x-compute-type"] == "1-cpu" and headers["x-compute-characters"] == "2"
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("3", "2")
    assert float(headers["x-compute-time"]) > 0
    for name in ("total", "validation", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()
    assert headers["x-time-per-token"].isdigit()


def test_stream_golden(url):
    response = post(url, "/generate_stream", body(max_new_tokens=2, details=True, top_n_tokens=1))
    assert response.headers["content-type"] == "text/event-stream"
    got = events(response)
    assert got == [
        {
            "index": 1,
            "token": token("L"),
            "top_tokens": [token("K", logprob=-0.25)],
            "generated_text": None,
            "details": None,
        },
        {
            "index": 2,
            "token": token("i"),
            "top_tokens": [token("h", logprob=-0.25)],
            "generated_text": "Li",
            "details": {
                "finish_reason": "length",
                "generated_tokens": 2,
                "seed": None,
                "input_length": 3,
            },
        },
    ]
    assert list(got[0]) == ["index", "token", "top_tokens", "generated_text", "details"]


@pytest.mark.parametrize("path", ["/", "/generate"])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"stop": ["caf", "Lil"]},
        {"max_new_tokens": 7},
        {"return_full_text": True},
        {"return_full_text": False, "top_n_tokens": 2},
    ],
    ids=str,
)
def test_stream_adds_up_to_the_whole(url, path, parameters):
    whole = post(url, path, body(details=True, **parameters)).json()
    whole = whole[0] if path == "/" else whole
    stream_path = path if path == "/" else "/generate_stream"
    got = events(post(url, stream_path, body(details=True, **parameters) | {"stream": True}))
    details = whole["details"]
    assert [event["index"] for event in got] == list(range(1, len(got) + 1))
    assert [event["token"] for event in got] == details["tokens"]
    assert [event.get("top_tokens") for event in got] == details.get("top_tokens", [None] * len(got))
    assert {event["generated_text"] for event in got[:-1]} <= {None}
    assert got[-1]["generated_text"] == whole["generated_text"]
    assert got[-1]["details"] == {
        "finish_reason": details["finish_reason"],
        "generated_tokens": details["generated_tokens"],
        "seed": details["seed"],
        "input_length": 3,
    }
    full = parameters.get("return_full_text", path == "/")
    assert whole["generated_text"].startswith("hi" if full else "Lil")


def test_root_answers_a_list_with_the_prompt(url):
    assert post(url, "/", {"inputs": "hi", "parameters": {}}).json() == [{"generated_text": "hi" + ANSWER}]


@pytest.mark.parametrize(
    ("parameters", "reason", "text"),
    [
        ({}, "eos_token", ANSWER),
        ({"max_new_tokens": 3}, "length", "Lil"),
        ({"stop": ["saw"]}, "stop_sequence", "Lily saw"),
        ({"max_new_tokens": len(TOKENS)}, "length", ANSWER),
        ({"max_new_tokens": 3, "stop": ["Lil"]}, "length", "Lil"),
    ],
)
def test_finish(url, parameters, reason, text):
    """The limit is looked at before the end token and the stop strings; these stay in the text."""
    got = post(url, "/generate", body(details=True, **parameters)).json()
    assert (got["details"]["finish_reason"], got["generated_text"]) == (reason, text)


def test_end_token_is_reported_but_not_written(url):
    details = post(url, "/generate", body(details=True)).json()["details"]
    assert details["tokens"][-1] == {"id": EOS, "text": "</s>", "logprob": -0.5, "special": True}
    assert [one["id"] for one in details["tokens"]] == TOKENS


@pytest.mark.parametrize(
    ("stop", "reason", "text"),
    [("<extra>", "stop_sequence", "ab"), ("</s>", "eos_token", "abc"), ("<extra> ", "eos_token", "abc")],
)
def test_special_tokens_as_stop_strings(serve, stop, reason, text):
    url = serve(FakeLLM(answer=[*b"ab", EXTRA, ord("c"), EOS]))
    for path in ("/generate", "/generate_stream"):
        response = post(url, path, body(stop=[stop], details=True))
        got = response.json() if path == "/generate" else events(response)[-1]
        assert (got["generated_text"], got["details"]["finish_reason"]) == (text, reason)


def test_logprobs_have_the_digits_of_float32():
    assert [shortest(float(np.float32(x))) for x in (-0.68603516, -9.1, 0.0, -1e-9)] == [-0.68603516, -9.1, 0.0, -1e-9]


def test_tokens_do_not_wait_for_stop_strings(url):
    """What may begin one stays in the text in any case, so that nothing is held back."""
    got = events(post(url, "/generate_stream", body(stop=["saw!", "Lilly"])))
    assert [event["token"] for event in got] == post(url, "/generate", body(details=True)).json()["details"]["tokens"]


def test_prefill(url):
    details = post(url, "/generate", body(decoder_input_details=True, max_new_tokens=1)).json()["details"]
    assert details["prefill"] == [
        {"id": BOS, "text": "<s>", "logprob": None},
        {"id": ord("h"), "text": "h", "logprob": -0.5},
        {"id": ord("i"), "text": "i", "logprob": -0.5},
    ]


@pytest.mark.parametrize(
    ("top_n", "ids"), [(0, []), (2, [0, 3]), (3, [0, 3, 1, 4]), (4, [0, 3, 1, 4]), (5, [0, 3, 1, 4, 2])]
)
def test_ties_with_the_last_of_the_top_tokens(top_n, ids):
    """The example of TGI's own tests; tokens that the sampling ruled out are not told."""
    logprobs = [-1.0, -3.0, -4.0, -2.0, -3.0, -math.inf]
    entry = {token: Logprob(logprobs[token]) for token in (2, 0, 3, 1, 4, 5)}
    sequence = CompletionOutput(0, "", [2], logprobs=[entry])
    tokenizer = SimpleNamespace(token_text=str, is_special=lambda token: False)
    assert [[token.id for token in top] for top in TokenWriter(tokenizer, top_n).top_tokens(sequence)] == [ids] * (
        top_n > 0
    )


def test_best_is_the_likeliest_token_by_token():
    sequences = [
        CompletionOutput(i, text, [0] * length, total, [{0: Logprob(-1.0)}] * length, "stop", tokens=[])
        for i, (text, length, total) in enumerate([("long", 4, -6.0), ("best", 3, -3.0), ("short", 1, -2.0)])
    ]
    for sequence in sequences:
        sequence.tokens = [TokenText(0, "x")] * len(sequence.token_ids)
    output = RequestOutput("r", None, [1], None, sequences, True)
    made = Generation([1], SamplingParams(n=3), 2**64 - 1, 0.0)
    service = SimpleNamespace(llm=SimpleNamespace(tokenizer=None))
    got = Answer(service, Parameters(best_of=3, details=True), made, "").whole(output)
    assert got.generated_text == "best" and got.details.seed == 0
    assert [other.generated_text for other in got.details.best_of_sequences] == ["long", "short"]
    assert [other.seed for other in got.details.best_of_sequences] == [2**64 - 1, 1]


def test_best_of(url):
    got = post(url, "/generate", body(best_of=2, do_sample=True, details=True, max_new_tokens=3)).json()
    details = got["details"]
    [other] = details["best_of_sequences"]
    assert {got["generated_text"], other["generated_text"]} == {"Lil", "ily"}
    assert other["seed"] == details["seed"] + 1
    assert list(other) == [
        "generated_text",
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
    ]


@pytest.mark.parametrize(
    ("request_body", "sampled"),
    [
        ({"inputs": "hi"}, True),
        (body(), False),
        (body(do_sample=False), False),
        (body(do_sample=True), True),
        (body(temperature=1.0), False),
        (body(temperature=0.5), True),
        (body(top_k=5), True),
        (body(top_p=0.5), True),
        (body(typical_p=0.5), True),
        (body(seed=7), False),
        (body(repetition_penalty=1.2, frequency_penalty=0.1), False),
    ],
)
def test_when_it_samples(url, llm, request_body, sampled):
    post(url, "/generate", request_body)
    [request] = llm.requests
    assert request.params.greedy != sampled
    if "parameters" in request_body:
        request_body["parameters"]["details"] = True
        seed = post(url, "/generate", request_body).json()["details"]["seed"]
        assert (seed is not None) == sampled


def test_parameters_reach_the_engine(url, llm):
    given = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "typical_p": 0.8,
        "seed": 2**64 - 1,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.2,
        "truncate": 2,
        "stop": ["z"],
        "watermark": True,
        "top_n_tokens": 4,
        "decoder_input_details": True,
    }
    got = post(url, "/generate", body("hello", **given, details=True)).json()
    [request] = llm.requests
    params = request.params
    assert request.prompt == [BOS, ord("o")]
    assert (params.temperature, params.top_k, params.top_p, params.typical_p) == (0.5, 3, 0.9, 0.8)
    assert (params.repetition_penalty, params.frequency_penalty, params.seed) == (1.3, 0.2, 2**64 - 1)
    assert (params.max_tokens, params.stop, params.include_stop_str_in_output) == (254, ["z"], True)
    assert params.stop_at_token_ends
    assert (params.watermark, params.stages) == (True, TGI_STAGES)
    assert (params.logprobs, params.logprobs_mode, params.prompt_logprobs) == (4, "processed", 0)
    assert got["details"]["seed"] == 2**64 - 1


def test_long_answers(serve):
    """Of the tokens asked for, 1024 must fit the context; the answer ends where it is full, and not before."""
    url = serve(FakeLLM(answer=[65] * 2000, max_model_len=1100))
    details = post(url, "/generate", body("hi", max_new_tokens=100_000, details=True)).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 1097)
    details = post(url, "/generate", body("hi", max_new_tokens=1050, details=True)).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 1050)
    error = post(url, "/generate", body("x" * 99, max_new_tokens=2000)).json()["error"]
    assert error.endswith("must be <= 1100. Given: 100 `inputs` tokens and 1024 `max_new_tokens`")


def test_overload_and_failure(serve):
    overloaded = serve(FakeLLM(overloaded=True))
    error = {"error": "Model is overloaded", "error_type": "overloaded"}
    response = post(overloaded, "/generate", body())
    assert (response.status_code, response.json(), response.headers["retry-after"]) == (429, error, "3")
    assert events(post(overloaded, "/generate_stream", body())) == [error]
    failing = serve(FakeLLM(fail_after=2))
    error = {
        "error": "Request failed during generation: the engine died",
        "error_type": "generation",
    }
    response = post(failing, "/generate", body())
    assert (response.status_code, response.json()) == (424, error)
    assert events(post(failing, "/generate_stream", body()))[2:] == [error]
