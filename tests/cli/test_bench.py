import asyncio
import json

import pytest

from tests.engine import fake
from trivet.api.args import EngineArgs
from trivet.cli.measure import measure
from trivet.engine.inprocess import InProcessClient
from trivet.errors import EngineError

COLUMNS = [
    "prompt_tokens",
    "gen_tokens",
    "batch",
    "prefill_tok_s",
    "decode_tok_s",
    "ttft_ms",
    "itl_ms",
    "load_s",
    "rss_mb",
]


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """The engines that measurements make, whose steps take 2 ms each."""
    made = []

    def make(config):
        runtime = fake.FakeRuntime(fake.Options(step_seconds=0.002))
        client = InProcessClient(config, lambda config: runtime)
        client.runtime = runtime
        made.append(client)
        return client

    monkeypatch.setattr("trivet.cli.measure.InProcessClient", make)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()
    return made


def run(prompt_tokens, gen_tokens, batches):
    ticks = []
    args = EngineArgs("m.gguf", max_num_batched_tokens=64)
    results = asyncio.run(measure(args, prompt_tokens, gen_tokens, batches, lambda _, tokens: ticks.append(tokens)))
    assert sum(ticks) == sum(batches) * (prompt_tokens + gen_tokens)
    return results


def test_every_batch_is_prefilled_whole_and_decoded_in_step(engines):
    results = run(40, 20, [1, 3, 12])
    [client] = engines
    assert [list(result) for result in results] == [COLUMNS] * 3
    assert client.stats().preemptions == 0
    # A round to warm up; prompts in steps of 64 tokens; what is not cached of them; then one token each.
    sizes = [int(plan.query_starts[-1]) for plan in client.runtime.plans]
    assert sizes[:4] == [40, 1, 1, 1]
    assert sizes[4 : 4 + 21] == [40, 8, *[1] * 19]
    assert sizes[25 : 25 + 22] == [64, 56, 24, *[3] * 19]
    assert sizes[47 : 47 + 8] == [64] * 7 + [32]
    assert sizes[55:].count(12) >= 12  # the last prompts may share steps with the first answers
    for result in results:
        batch = result["batch"]
        step = result["itl_ms"] / 1e3
        assert 0.002 <= step < 0.02
        assert result["decode_tok_s"] == pytest.approx(batch / step, rel=0.01)
        assert result["prefill_tok_s"] < 64 / 0.002
        assert result["ttft_ms"] >= 2
        assert result["rss_mb"] > 10


def test_one_token_leaves_nothing_to_time(engines):
    [result] = run(10, 1, [2])
    assert result["decode_tok_s"] is result["itl_ms"] is None
    assert result["prefill_tok_s"] > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((250, 7, [1]), "1 sequences of 250 [+] 7 tokens: max_model_len must be between 2 and .* 256, got 257"),
        ((200, 50, [9000]), "9000 sequences of 200 [+] 50 tokens: .* are free"),
    ],
)
def test_what_does_not_fit_says_so(engines, shape, message):
    with pytest.raises(EngineError, match=message):
        run(*shape)


def test_json_is_all_that_is_printed(engines, trivet):
    code, out, err = trivet("bench", "m.gguf", "--prompt-tokens", "8", "--gen-tokens", "4", "--batch", "1,2", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert list(report) == ["model", "system", "results"]
    assert [result["batch"] for result in report["results"]] == [1, 2]


def test_a_table_without_json(engines, trivet):
    code, out, _ = trivet("bench", "m.gguf", "--prompt-tokens", "8", "--gen-tokens", "4", "--batch", "2")
    assert code == 0
    assert all(name in out for name in COLUMNS[2:])


def test_prompts_fit_a_small_context_by_default(trivet):
    code, out, _ = trivet("bench", "--gen-tokens", "4", "--batch", "1", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["model"], report["results"][0]["prompt_tokens"]) == ("built-in", 508)
