"""vLLM's `AsyncLLM`, on an engine that plays back tokens."""

import asyncio
from contextlib import aclosing

import pytest

from tests.api.scripted import BOS, EOS
from trivet import AsyncEngineArgs, AsyncLLM, AsyncLLMEngine, RequestOutputKind, SamplingParams
from trivet.errors import EngineError, RequestError

HELLO = list(b"Hello, world")
KINDS = list(RequestOutputKind)
ALL = SamplingParams(max_tokens=50)


def params(**given) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 50, **given})


@pytest.fixture
def engine(model, script):
    """Loads an engine that plays these scripts, and shuts it down at the end."""
    engines = []

    def load(*scripts, **options) -> AsyncLLM:
        script(*scripts)
        engines.append(AsyncLLM.from_engine_args(AsyncEngineArgs(model, **options)))
        return engines[-1]

    yield load
    for one in engines:
        one.shutdown()
        assert one.is_stopped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3])
async def test_kinds_of_output(engine, kind, n):
    llm = engine([*HELLO, EOS], [*b"Bye", EOS], [*b"Well", EOS])
    texts = [""] * n
    outputs = [o async for o in llm.generate("Hi", params(n=n, output_kind=kind, seed=1), "1")]
    for output in outputs:
        for sequence in output.outputs:
            if kind is RequestOutputKind.CUMULATIVE:
                assert sequence.text.startswith(texts[sequence.index])
                texts[sequence.index] = ""
            texts[sequence.index] += sequence.text
    assert texts == ["Hello, world", "Bye", "Well"][:n]
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1].prompt_token_ids == [BOS, *b"Hi"]
    assert (len(outputs) == 1) == (kind is RequestOutputKind.FINAL_ONLY)


@pytest.mark.parametrize(
    ("of_engine", "of_request", "sizes"), [(1, 4, [1, 4, 4, 3]), (5, None, [1, 5, 5, 1]), (3, 12, [1, 11])]
)
async def test_stream_intervals(engine, of_engine, of_request, sizes):
    llm = engine(HELLO, stream_interval=of_engine)
    ask = params(output_kind=RequestOutputKind.DELTA, stream_interval=of_request, ignore_eos=True)
    outputs = [o.outputs[0] async for o in llm.generate("Hi", ask, "1")]
    assert [len(output.token_ids) for output in outputs] == sizes
    assert "".join(output.text for output in outputs) == "Hello, world"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2])
async def test_aborting(engine, kind, n):
    llm = engine(HELLO * 10)
    ask = params(output_kind=kind, n=n, seed=1, max_tokens=None)

    async def last(request_id):
        async with aclosing(llm.generate("Hi", ask, request_id)) as outputs:
            return [output async for output in outputs][-1]

    tasks = {name: asyncio.create_task(last(name)) for name in ("a", "b", "c")}
    for _ in range(8):
        await asyncio.sleep(0)
    await llm.abort("a")
    await llm.abort(["b", "unknown"])
    done = {name: await task for name, task in tasks.items()}
    reasons = {name: {s.finish_reason for s in output.outputs} for name, output in done.items()}
    assert reasons == {"a": {"abort"}, "b": {"abort"}, "c": {"length"}}
    assert all(output.finished for output in done.values())


async def test_leaving_a_stream_cancels(engine, script, model):
    client = script(HELLO * 10)
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model))
    async with aclosing(llm.generate("Hi", ALL, "1")) as outputs:
        await anext(outputs)
        assert llm.get_num_unfinished_requests() == 1
    assert len(client.cancelled) == 1
    assert llm.get_num_unfinished_requests() == 0


async def test_what_it_tells(engine, model):
    llm = engine([*HELLO, EOS], served_model_name="hello")
    assert AsyncLLMEngine is AsyncLLM
    assert llm.is_running
    assert not llm.errored
    await llm.check_health()
    assert llm.get_tokenizer() is llm.tokenizer
    assert llm.get_num_unfinished_requests() == 0
    assert (llm.model_config.max_model_len, llm.model_config.get_vocab_size()) == (1000, 260)
    assert (llm.model_config.model, llm.model_config.served_model_name) == (model, "hello")
    assert await llm.get_supported_tasks() == ("generate",)
    llm._client.alive = False
    with pytest.raises(EngineError, match="not running"):
        await llm.check_health()


def test_loggers_are_refused(model):
    with pytest.raises(RequestError, match="stat_loggers are not supported"):
        AsyncLLM.from_engine_args(AsyncEngineArgs(model), stat_loggers=[object])


@pytest.mark.parametrize("name", ["encode", "sleep", "wake_up", "add_lora", "collective_rpc", "pause_generation"])
async def test_what_is_not_there_says_so(engine, name):
    with pytest.raises(RequestError, match=rf"AsyncLLM\.{name}: .+"):
        await getattr(engine(HELLO), name)()


async def test_arguments_reach_the_request(model, script):
    client = script([*b"ab", EOS])
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model, max_logprobs=3))
    prompt = {"prompt_token_ids": [65, 66, 67], "prompt": "ABC", "cache_salt": "s"}
    ask = params(logprobs=3, skip_reading_prefix_cache=True)
    [output] = [
        o
        async for o in llm.generate(
            prompt=prompt, sampling_params=params(output_kind=RequestOutputKind.FINAL_ONLY), request_id="r", priority=4
        )
    ]
    assert (output.request_id, output.prompt, output.prompt_token_ids) == ("r", "ABC", [65, 66, 67])
    async for _ in llm.generate("x", ask, "r", tokenization_kwargs={"add_special_tokens": False}):
        pass
    await llm.reset_prefix_cache()
    async for _ in llm.generate("x", params(), "r"):
        pass
    first, second, third = client.requests
    assert (first.priority, first.cache_salt) == (4, "s")
    assert second.prompt == [ord("x")]
    assert len({first.cache_salt, second.cache_salt, third.cache_salt, ""}) == 4
    with pytest.raises(RequestError, match="logprobs may be at most 3, got 4"):
        await anext(llm.generate("x", params(logprobs=4), "r"))
    with pytest.raises(RequestError, match="lora_request is not supported"):
        await anext(llm.generate("x", ALL, "r", lora_request="l"))


def test_requests_are_logged_when_asked_for(engine, caplog):
    async def run(llm):
        return [o async for o in llm.generate("secret", ALL, "r7")]

    with caplog.at_level("INFO", "trivet"):
        asyncio.run(run(engine([EOS])))
        assert "r7" not in caplog.text
        asyncio.run(run(engine([EOS], enable_log_requests=True)))
    assert "request r7: SamplingParams(max_tokens=50)" in caplog.text
    assert "secret" not in caplog.text
