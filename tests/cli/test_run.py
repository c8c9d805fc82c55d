import subprocess
import sys

import pytest

from tests.api.scripted import BOS, EOS

HELLO = [*"Héllo".encode(), EOS]


def test_the_completion_and_nothing_else_is_printed(trivet, script, model):
    client = script(HELLO)
    assert trivet("run", model, "-p", "Hi") == (0, "Héllo\n", "")
    assert client.requests[0].prompt == [BOS, *b"Hi"]
    assert not client.alive


@pytest.mark.parametrize(("stdin", "prompt"), [("Hi\n", b"Hi"), ("a\nb\n\n", b"a\nb\n"), ("", b"")])
def test_a_piped_prompt(trivet, script, model, stdin, prompt):
    client = script(HELLO)
    assert trivet("run", model, stdin=stdin)[0] == 0
    assert client.requests[0].prompt == [BOS, *prompt]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {"temperature": 0.8, "top_p": 0.95, "max_tokens": 256, "ignore_eos": False}),
        (["-n", "7", "--temp", "0", "--top-k", "3"], {"max_tokens": 7, "temperature": 0, "top_k": 3}),
        (["-n", "-1", "--ignore-eos"], {"max_tokens": 999, "ignore_eos": True}),
        (["--top-p", "1", "--min-p", ".1", "--typical-p", ".5"], {"top_p": 1, "min_p": 0.1, "typical_p": 0.5}),
        (["--repeat-penalty", "1.1"], {"repetition_penalty": 1.1}),
        (
            ["--frequency-penalty", "1", "--presence-penalty", "-1"],
            {"frequency_penalty": 1, "presence_penalty": -1},
        ),
    ],
)
def test_options_reach_the_sampler(trivet, script, model, args, expected):
    client = script(HELLO)
    assert trivet("run", model, "--seed", "9", *args)[0] == 0
    [request] = client.requests
    assert {name: getattr(request.params, name) for name in expected} == expected
    assert request.seed == 9


def test_stop_strings(trivet, script, model):
    script(HELLO)
    assert trivet("run", model, "-p", "Hi", "--stop", "x", "--stop", "lo") == (0, "Hél\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--temperature", "-1"], "temperature must be 0 or greater, got -1.0"),
        (["-n", "-5"], "max_tokens must be at least 1, or -1 for as many as fit, got -5"),
        (["-p", "x" * 1000], "the prompt has 1001 tokens"),
    ],
)
def test_bad_values_are_one_line(trivet, script, model, args, message):
    script(HELLO)
    code, out, err = trivet("run", model, *args)
    assert (code, out) == (1, "")
    assert err.startswith(f"trivet: error: {message}")
    assert err.count("\n") == 1


def test_a_failing_engine_is_one_line(trivet, script, model):
    script([*b"ab", "non-finite logits"])
    assert trivet("run", model, "-p", "x") == (1, "ab\n", "trivet: error: non-finite logits\n")


def test_the_built_in_model_repeats_itself_with_a_seed(trivet):
    texts = [trivet("run", "-p", "ROMEO:", "-n", "20", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) > 20


PIPED = """
import sys
from trivet.cli.main import main
try:
    main(["run", "-p", "x", "-n", "1"])
finally:
    assert not {"rich", "pydantic", "jinja2", "starlette"} & set(sys.modules)
"""


def test_what_only_a_terminal_or_a_server_needs_is_not_loaded():
    out = subprocess.run([sys.executable, "-c", PIPED], check=True, capture_output=True, text=True)
    assert out.stdout.endswith("\n") and not out.stderr
