"""TGI's rules for requests, word for word and in its order."""

from __future__ import annotations

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import client, events, post


def body(inputs="hi", **parameters):
    return {"inputs": inputs, "parameters": parameters}


INVALID = [
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    (
        {"best_of": 2, "do_sample": True, "seed": 1},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 255. Given: 0"),
    ({"truncate": 256}, "`truncate` must be strictly positive and less than 255. Given: 256"),
    (
        {"max_new_tokens": 254},
        "`inputs` tokens + `max_new_tokens` must be <= 256. Given: 3 `inputs` tokens and 254 `max_new_tokens`",
    ),
    ({"grammar": {"type": "regex", "value": "a"}}, "grammar is not supported"),
    ({"adapter_id": "a"}, "adapter_id is not supported by this server: adapters are not supported yet"),
    ({"temperature": 0, "top_k": 0}, "`temperature` must be strictly positive"),
]


@pytest.mark.parametrize(("parameters", "message"), INVALID, ids=[str(one[0]) for one in INVALID])
def test_validation(url, parameters, message):
    expected = {"error": f"Input validation error: {message}", "error_type": "validation"}
    for path in ("/", "/generate"):
        response = post(url, path, body(**parameters))
        assert (response.status_code, response.json()) == (422, expected)
    if "best_of" not in parameters:
        assert events(post(url, "/generate_stream", body(**parameters))) == [expected]
        assert events(post(url, "/", body(**parameters) | {"stream": True})) == [expected]


def test_rules_are_checked_in_this_order(url):
    """Every rule is broken; they are told one by one as they are mended."""
    given = body(
        "", best_of=3, temperature=-1, repetition_penalty=0, frequency_penalty=3, top_p=1, typical_p=0, top_k=0
    )
    given["parameters"] |= {
        "top_k": 0,
        "max_new_tokens": 0,
        "stop": ["a"] * 5,
        "seed": 1,
        "top_n_tokens": 6,
        "truncate": 0,
    }
    given["parameters"] |= {"grammar": {"type": "regex", "value": "a"}, "adapter_id": "a"}
    mended = [
        ("`best_of`", {"best_of": 2}),
        ("`temperature`", {"temperature": 0.5}),
        ("`repetition_penalty`", {"repetition_penalty": 1}),
        ("`frequency_penalty`", {"frequency_penalty": 0}),
        ("`top_p`", {"top_p": 0.99}),
        ("`typical_p`", {"typical_p": 0.99}),
        ("`top_k`", {"top_k": 1}),
        ("`max_new_tokens`", {"max_new_tokens": 999}),
        ("`stop`", {"stop": ["a"] * 4}),
        ("`seed`", {"seed": None}),
        ("`top_n_tokens`", {"top_n_tokens": 5}),
        ("`inputs` cannot be empty", {}),
        ("`truncate`", {"truncate": 255}),
        ("`inputs` tokens + `max_new_tokens`", {"max_new_tokens": 1}),
        ("grammar", {"grammar": None}),
        ("adapter_id", {"adapter_id": ""}),
    ]
    for rule, mend in mended:
        error = post(url, "/generate", given).json()["error"]
        assert error.startswith(f"Input validation error: {rule}"), error
        given["parameters"] |= mend
        given["inputs"] = "hi" if "empty" in rule else given["inputs"]
    assert post(url, "/generate", given).status_code == 200


def test_where_best_of_is_not_allowed(serve):
    response = post(serve(FakeLLM(), max_best_of=1), "/generate", body(best_of=2, do_sample=True))
    assert response.json()["error"] == "Input validation error: `best_of` != 1 is not allowed for this endpoint"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_stream_validation(url, parameters, message):
    [error] = events(post(url, "/generate_stream", body(**parameters)))
    assert error == {"error": f"Input validation error: {message}", "error_type": "validation"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "`inputs` cannot be empty"),
        (
            "x" * 300,
            "`inputs` tokens + `max_new_tokens` must be <= 256. Given: 301 `inputs` tokens and 0 `max_new_tokens`",
        ),
        ("x" * 255, "`inputs` must have less than 255 tokens. Given: 256"),
    ],
)
def test_input_validation(url, inputs, message):
    response = post(url, "/generate", body(inputs))
    assert response.status_code == 422 and response.json()["error"] == f"Input validation error: {message}"


@pytest.mark.parametrize(
    ("content", "kind", "status", "text"),
    [
        ("{", "application/json", 400, "Failed to parse the request body as JSON: "),
        ("{}", "application/json", 422, "Failed to deserialize the JSON body into the target type: "),
        (
            '{"inputs": "a", "parameters": {"seed": -1}}',
            "application/json",
            422,
            "Failed to deserialize the JSON body into the target type: ",
        ),
        (
            '{"inputs": "a", "parameters": {"stop": "x"}}',
            "application/json",
            422,
            "Failed to deserialize the JSON body into the target type: ",
        ),
        ('{"inputs": "a"}', "text/plain", 415, "Expected request with `Content-Type: application/json`"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
def test_extractor_errors_are_plain_text(url, path, content, kind, status, text):
    response = client.post(url + path, content=content, headers={"content-type": kind})
    assert response.status_code == status and response.text.startswith(text)
    assert response.headers["content-type"].startswith("text/plain")


def test_nulls_and_unknown_fields_are_taken(url):
    names = ["best_of", "temperature", "top_k", "do_sample", "watermark", "details", "stop", "seed", "truncate"]
    parameters = dict.fromkeys(names) | {"unknown": 1}
    assert post(url, "/", {"inputs": "a", "parameters": parameters, "stream": None, "x": 1}).status_code == 200
