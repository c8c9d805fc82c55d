import importlib.util
import json
import socket

import pytest

from tests.server.conftest import llm as llm
from tests.server.conftest import serve as serve
from tests.server.conftest import session as session
from tests.server.conftest import url as url
from tests.server.fake_llm import FakeLLM, byte_model
from trivet.bench.dialects import DIALECTS

TEXT = [97] * 100
"""An answer without an end."""


@pytest.fixture
def endless(serve):
    return serve(FakeLLM(answer=TEXT))


@pytest.fixture
def bench(trivet, tmp_path):
    """Runs the command with --json; gives exit code, what it wrote there, standard output and standard error."""

    def run(url, *args):
        file = tmp_path / "result.json"
        code, out, err = trivet("bench-serve", "--url", url, "--json", str(file), *args)
        return code, json.loads(file.read_text()) if file.exists() else None, out, err

    return run


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_a_server(bench, endless, dialect):
    args = ("--dialect", dialect, "--tokenizer", byte_model(), "--input-len", "60", "--output-len", "10")
    code, result, out, err = bench(endless, *args, "--requests", "7", "--concurrency", "3", "--slo", "e2e=60000")
    assert (code, err) == (0, "")
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (7, 0, 70)
    # Prompts are exact to the token, whatever the dialect puts around them.
    assert result["input_lens"] == [60] * 7
    # A chat begins with an event that has the role alone; it counts, as it does for vLLM.
    assert [len(gaps) for gaps in result["itls"]] == [10 if dialect == "openai-chat" else 9] * 7
    assert result["request_goodput"] == result["request_throughput"]
    assert 0 < result["mean_ttft_ms"] <= result["mean_e2el_ms"] <= result["max_e2el_ms"] < result["duration"] * 1e3
    assert result["model_id"] == ("fake" if dialect.startswith("openai") else None)
    for text in (dialect, "concurrency 3", "TTFT", "ITL", "TPOT", "E2E", "7 succeeded", "(100%) within e2el"):
        assert text in out


def test_prompts_of_words_have_their_length_on_average(bench, endless):
    _, result, *_ = bench(endless, "--dialect", "openai-chat", "--input-len", "150", "--output-len", "1")
    assert result["num_prompts"] == 100
    assert result["total_input_tokens"] / 100 == pytest.approx(150, rel=0.03)


def test_a_seed_asks_the_same_again(bench, llm, url):
    def asked(*args):
        llm.requests.clear()
        bench(url, "--requests", "5", "--rate", "100", "--output-len", "3", "--input-len", "40", *args)
        # In an order of their own, as five that come within 50 ms may overtake one another.
        return sorted(request.prompt for request in llm.requests[-5:])

    assert asked("--seed", "1") == asked("--seed", "1")
    assert asked("--seed", "1") != asked("--seed", "2")
    assert asked() != asked()


def test_a_trace_is_replayed(bench, llm, url, tmp_path):
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [f"2023-11-16 18:15:4{i}.0000000,{300 + 100 * i},{100 * i + 50}" for i in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    args = ("--workload", "azure-trace", "--trace", str(tmp_path / "t.csv"), "--tokenizer", byte_model())
    code, result, out, _ = bench(url, *args, "--length-scale", "0.1", "--rate-scale", "4")
    assert (code, result["input_lens"], result["request_rate"]) == (0, [30, 40, 50], "trace")
    assert "at the trace's times" in out
    assert [request.params.max_tokens for request in llm.requests[-3:]] == [5, 15, 25]
    starts = result["start_times"]
    assert [start - starts[0] for start in starts] == pytest.approx([0, 0.25, 0.5], abs=0.2)


def test_a_file_of_prompts(bench, llm, url, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "output_tokens": 4}\n')
    code, result, *_ = bench(url, "--workload", str(tmp_path / "p.jsonl"), "--output-len", "2", "--concurrency", "1")
    assert (code, result["output_lens"]) == (0, [2, 4])
    assert [bytes(request.prompt[1:]) for request in llm.requests[-2:]] == [b"one", b"two"]


def test_refusals_are_counted(bench, endless, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n" + json.dumps({"prompt": "x" * 300}))
    code, result, out, _ = bench(endless, "--workload", str(tmp_path / "p.jsonl"))
    assert (code, result["completed"], result["failed"]) == (0, 1, 1)
    assert result["errors_by_kind"] == {"HTTP 400": 1}
    assert "HTTP 400" in out
    assert "256" in out


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_engine_that_fails_in_a_stream(bench, serve, dialect):
    # The requests before the run ask for one token, which comes.
    code, result, _, err = bench(serve(FakeLLM(answer=TEXT, fail_after=3)), "--dialect", dialect, "--requests", "2")
    assert (code, result["errors_by_kind"]) == (1, {"error in stream": 2})
    assert "the engine died" in err


def test_no_success_is_a_failure(bench, endless, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "x" * 300}))
    code, result, _, err = bench(endless, "--workload", str(tmp_path / "p.jsonl"))
    assert (code, result["completed"]) == (1, 0)
    assert err.startswith("trivet: error: no request succeeded: 1 × HTTP 400: ")
    assert err.count("\n") == 1


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_server_that_is_not_there(bench, dialect):
    code, _, out, err = bench(f"http://127.0.0.1:{free_port()}", "--dialect", dialect)
    assert (code, out) == (1, "")
    assert err.startswith("trivet: error: cannot connect to http://127.0.0.1:")
    assert err.count("\n") == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key(bench, serve, dialect):
    url = serve(FakeLLM(answer=TEXT), api_keys=("secret",))
    args = ("--dialect", dialect, "--requests", "1", "--input-len", "40", "--output-len", "2")
    for wrong in ((), ("--api-key", "guess")):
        code, _, out, err = bench(url, *args, *wrong)
        assert (code, out) == (1, "")
        assert "HTTP 401: " in err
        assert "(give its key with --api-key)" in err
    assert bench(url, *args, "--api-key", "secret")[0] == 0


def test_a_model_that_is_not_there(bench, url):
    code, _, out, err = bench(url, "--model", "nobody")
    assert (code, out) == (1, "")
    assert "/v1/completions: HTTP 404: " in err
    assert "nobody" in err
    assert "--model" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--dialect", "soap"), "must be one of openai, openai-chat, tgi, llamacpp, got 'soap'"),
        (("--rate", "0"), "must be a number above 0, got '0'"),
        (("--rate", "fast"), "must be a number above 0, got 'fast'"),
        *(
            ((option, value), "must be a number above 0, got")
            for option in ("--duration", "--timeout", "--length-scale", "--rate-scale")
            for value in ("nan", "inf", "-1")
        ),
        (("--workload", "azure-trace"), "needs --trace FILE"),
        (("--workload", "no-such"), "must be random, sharegpt-like, azure-trace or a file, got 'no-such'"),
        (("--workload", "sharegpt-like", "--input-len", "3"), "--input-len does not go with --workload sharegpt-like"),
        (("--trace", "x.csv"), "--trace does not go with --workload random"),
        (("--rate-scale", "2"), "--rate-scale does not go with"),
    ],
)
def test_wrong_use(trivet, args, message):
    code, out, err = trivet("bench-serve", *args)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--url", "ftp://x"), "--url must be like"),
        (("--slo", "speed=1"), "--slo must be like"),
        (("--json", "no/such/x.json"), "no/such/x.json: there is no folder no/such"),
        (("--duration", "3"), "--duration does not end a run"),
        (("--workload", "azure-trace", "--trace", "no.csv"), "no.csv: No such file"),
    ],
)
def test_what_is_found_wrong_before_a_request(trivet, args, message):
    code, out, err = trivet("bench-serve", *args)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_plot_without_matplotlib(trivet, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = trivet("bench-serve", "--plot", "x.png")
    assert (code, err) == (1, "trivet: error: --plot needs matplotlib: pip install 'trivet[bench]'\n")


@pytest.mark.parametrize("tokens", ["1", "20"])
def test_a_plot(bench, url, tmp_path, tokens):
    picture = tmp_path / "x.png"
    assert bench(url, "--requests", "3", "--output-len", tokens, "--input-len", "40", "--plot", str(picture))[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
