"""vLLM's `LLMEngine`: add requests, and step."""

import pytest

from tests.api.scripted import EOS
from trivet import EngineArgs, LLMEngine, RequestOutputKind, SamplingParams
from trivet.errors import EngineError, RequestError

HELLO = list(b"Hello, world")
ALL = SamplingParams(max_tokens=None)


@pytest.fixture
def engine(model, script):
    engines = []

    def load(*scripts, **options):
        client = script(*scripts, **options)
        engines.append(LLMEngine.from_engine_args(EngineArgs(model)))
        return engines[-1], client

    yield load
    for one in engines:
        one.close()


def drain(engine):
    outputs = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_stepping(engine, kind):
    llm, _ = engine([*HELLO, EOS], [*b"Bye", EOS])
    assert llm.step() == []
    params = SamplingParams(max_tokens=50, output_kind=kind)
    assert llm.add_request("a", "Hi", params) == "a"
    llm.add_request("b", {"prompt_token_ids": [1]}, params, arrival_time=5.0)
    assert llm.get_num_unfinished_requests() == 2
    outputs = drain(llm)
    assert llm.step() == []
    texts = {name: [o.outputs[0].text for o in of] for name, of in outputs.items()}
    if kind is RequestOutputKind.DELTA:
        texts = {name: ["".join(pieces)] for name, pieces in texts.items()}
    assert {name: pieces[-1] for name, pieces in texts.items()} == {"a": "Hello, world", "b": "Bye"}
    assert all(of[-1].finished and not any(o.finished for o in of[:-1]) for of in outputs.values())
    assert outputs["b"][-1].metrics.arrival_time == 5.0


def test_aborting(engine):
    llm, client = engine(HELLO * 20, max_model_len=10**6)
    llm.add_request("a", "Hi", SamplingParams(max_tokens=None))
    llm.step()
    llm.abort_request(["a"])
    last = drain(llm).get("a", [None])[-1]
    assert last is None or last.outputs[0].finish_reason in ("abort", "length")
    assert not llm.has_unfinished_requests()
    assert len(client.requests) == 1


def test_a_request_that_fails_fails_alone(engine):
    llm, _ = engine([*b"ab", "non-finite logits"], [*b"fine", EOS])
    llm.add_request("a", "x", ALL)
    llm.add_request("b", "y", ALL)
    outputs = drain(llm)
    assert [outputs[name][-1].outputs[0].finish_reason for name in "ab"] == ["error", "stop"]
    assert outputs["b"][-1].outputs[0].text == "fine"


def test_any_number_of_requests_may_wait(engine):
    llm, _ = engine([*b"a", EOS], limit=None)
    for i in range(1200):
        llm.add_request(str(i), {"prompt_token_ids": [1]}, ALL)
    outputs = drain(llm)
    assert len(outputs) == 1200
    assert all(of[-1].outputs[0].finish_reason == "stop" for of in outputs.values())


def test_a_request_that_is_refused_fails_alone(engine):
    llm, _ = engine([*b"fine", EOS], limit=1)
    for name in "ab":
        llm.add_request(name, "x", ALL)
    outputs = drain(llm)
    assert [outputs[name][-1].outputs[0].finish_reason for name in "ab"] == ["stop", "error"]


def test_an_engine_that_is_gone_is_an_error(engine):
    llm, client = engine(["the engine stopped"])
    client.alive = False
    llm.add_request("a", "x", ALL)
    with pytest.raises(EngineError, match="the engine stopped"):
        drain(llm)
    assert not llm.has_unfinished_requests()


def test_bad_requests_are_refused_when_they_are_added(engine):
    llm, client = engine(HELLO, max_model_len=20)
    for prompt, params, message in (
        ("x" * 30, ALL, "31 tokens"),
        ({"prompt_embeds": [1]}, ALL, "prompt_embeds"),
        ("x", SamplingParams(temperature=0, n=2), "n must be 1"),
    ):
        with pytest.raises(RequestError, match=message):
            llm.add_request("a", prompt, params)
    assert not llm.has_unfinished_requests()
    assert not client.requests


def test_metrics_have_vllm_s_names(engine):
    llm, _ = engine(HELLO)
    names = {metric.name: metric for metric in llm.get_metrics()}
    expected = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries"}
    expected |= {
        "num_requests_waiting_by_reason",
        "engine_sleep_state",
        "prefix_cache_hits",
        "num_preemptions",
        "prompt_tokens",
        "generation_tokens",
    }
    assert names.keys() == {f"vllm:{name}" for name in expected}
    assert all(metric.labels["engine"] == "0" for metric in names.values())


@pytest.mark.parametrize("name", ["sleep", "collective_rpc", "apply_model", "add_lora"])
def test_what_is_not_there_says_so(engine, name):
    with pytest.raises(RequestError, match=rf"LLMEngine\.{name}: .+"):
        getattr(engine(HELLO)[0], name)(1)
