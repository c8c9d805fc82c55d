"""Programs as users of vLLM write them, with their imports, on the built-in model."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import subprocess
import sys

import pytest

from trivet import vllm_compat
from trivet.errors import RequestError

PROMPTS = ["First Citizen:", "KING HENRY:\nMy lord", "ROMEO:"]


@pytest.fixture(scope="module", autouse=True)
def vllm_is_this():
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM itself is installed")
    vllm_compat.install()
    vllm_compat.install()
    yield
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def llm():
    from vllm import LLM

    with LLM(max_model_len=256, gpu_memory_utilization=0.85, block_size=16, trust_remote_code=True) as llm:
        yield llm


def test_offline_inference(llm):
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=16, seed=1)
    outputs = llm.generate(PROMPTS, params)
    assert [output.prompt for output in outputs] == PROMPTS
    for output in outputs:
        assert output.outputs[0].text
        assert repr(output).startswith(f"RequestOutput(request_id='{output.request_id}', prompt={output.prompt!r}")
        assert "lora_request" not in repr(output)
    again = llm.generate(PROMPTS, params)
    assert [o.outputs[0].token_ids for o in again] == [o.outputs[0].token_ids for o in outputs]


def test_sampling_parameters_by_prompt(llm):
    from vllm import SamplingParams, TokensPrompt
    from vllm.inputs import TextPrompt

    ids = llm.get_tokenizer().encode("ROMEO:")
    params = [SamplingParams(max_tokens=5, temperature=0), SamplingParams(max_tokens=7, temperature=0, n=1)]
    first, second = llm.generate([TokensPrompt(prompt_token_ids=ids), TextPrompt(prompt="ROMEO:")], params)
    assert first.prompt_token_ids == second.prompt_token_ids == ids
    assert second.outputs[0].token_ids[:5] == first.outputs[0].token_ids
    assert [len(o.outputs[0].token_ids) for o in (first, second)] == [5, 7]


def test_logprobs(llm):
    from vllm import SamplingParams
    from vllm.logprobs import Logprob

    [output] = llm.generate("ROMEO:", SamplingParams(max_tokens=4, temperature=0, logprobs=2, prompt_logprobs=1))
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for token, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert next(iter(entry)) == token
        assert 1 <= len(entry) <= 2
    for token, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
        assert [(type(v), v.rank) for v in entry.values()] == [(Logprob, 1), (Logprob, 2)]
        assert next(iter(entry)) == token
        assert entry[token].decoded_token


def test_flat_logprobs(llm):
    from vllm import SamplingParams
    from vllm.logprobs import FlatLogprobs

    params = SamplingParams(max_tokens=4, temperature=0, logprobs=2, prompt_logprobs=0)
    [plain] = llm.generate("ROMEO:", params)
    params.flat_logprobs = True
    [flat] = llm.generate("ROMEO:", params)
    for made, listed in (
        (flat.outputs[0].logprobs, plain.outputs[0].logprobs),
        (flat.prompt_logprobs, [{}, *plain.prompt_logprobs[1:]]),
    ):
        assert isinstance(made, FlatLogprobs)
        assert list(made) == list(made[:]) == listed
        assert list(made[1:3]) == listed[1:3]
        assert made[-1] == listed[-1]
        assert len(made.logprobs) == sum(map(len, listed))


def test_chat(llm):
    from vllm import SamplingParams

    conversation = [{"role": "system", "content": "You are a poet."}, {"role": "user", "content": "Speak."}]
    params = SamplingParams(max_tokens=8, temperature=0)
    [one] = llm.chat(conversation, params, use_tqdm=False)
    assert [o.outputs[0].text for o in llm.chat([conversation] * 2, params)] == [one.outputs[0].text] * 2
    with pytest.raises(RequestError, match="chat_template_content_format may only be 'auto'"):
        llm.chat(conversation, params, chat_template_content_format="openai")


def test_enqueueing(llm):
    from vllm import RequestOutput, SamplingParams

    params = SamplingParams(max_tokens=6, temperature=0)
    ids = llm.enqueue(PROMPTS, params) + llm.enqueue_chat([{"role": "user", "content": "Hi"}], params)
    outputs = llm.wait_for_completion(RequestOutput)
    assert [output.request_id for output in outputs] == ids
    assert [o.outputs[0].text for o in outputs[:3]] == [o.outputs[0].text for o in llm.generate(PROMPTS, params)]
    assert llm.wait_for_completion() == []


def test_beam_search(llm):
    from vllm.inputs import TextPrompt
    from vllm.sampling_params import BeamSearchParams, SamplingParams

    prompts = [TextPrompt(prompt=prompt) for prompt in PROMPTS]
    outputs = llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=6))
    assert outputs == llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=6), concurrency_limit=1)
    greedy = llm.generate(prompts, SamplingParams(max_tokens=6, temperature=0))
    narrow = llm.beam_search(prompts, BeamSearchParams(beam_width=1, max_tokens=6, ignore_eos=True))
    for prompt, output, alone, made in zip(PROMPTS, outputs, narrow, greedy, strict=True):
        assert len(output.sequences) == 3
        assert all(sequence.text.startswith(prompt) for sequence in output.sequences)
        assert alone.sequences[0].tokens == made.prompt_token_ids + made.outputs[0].token_ids


def test_stepping_an_engine():
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(description="an engine"))
    engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(parser.parse_args(["--max-model-len", "128"])))
    prompts = [(prompt, SamplingParams(max_tokens=5 + i, seed=i)) for i, prompt in enumerate(PROMPTS)]
    finished = {}
    request_id = 0
    while prompts or engine.has_unfinished_requests():
        if prompts:
            engine.add_request(str(request_id), *prompts.pop(0))
            request_id += 1
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    assert [len(finished[str(i)].outputs[0].token_ids) for i in range(3)] == [5, 6, 7]
    engine.close()


def test_streaming_from_an_engine_made_outside_the_loop():
    from vllm import AsyncEngineArgs, AsyncLLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    args = AsyncEngineArgs(
        model=None, gpu_memory_utilization=0.85, max_num_batched_tokens=8192, block_size=16, max_model_len=256
    )
    engine = AsyncLLMEngine.from_engine_args(args)
    params = SamplingParams(max_tokens=10, temperature=0, output_kind=RequestOutputKind.DELTA)

    async def one(request_id, prompt):
        text = ""
        async for output in engine.generate(request_id=request_id, prompt=prompt, sampling_params=params):
            text += output.outputs[0].text
        return text

    async def main():
        return await asyncio.gather(*(one(str(i), prompt) for i, prompt in enumerate(PROMPTS)))

    async def leave():
        await anext(engine.generate(PROMPTS[0], SamplingParams(max_tokens=200, ignore_eos=True), "left"))

    first = asyncio.run(main())
    asyncio.run(leave())
    assert asyncio.run(main()) == first
    engine.shutdown()
    assert not engine.is_running


def test_streaming_from_an_engine_made_inside_the_loop():
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    async def main():
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(max_model_len=128))
        try:
            return [o.outputs[0].text async for o in engine.generate("ROMEO:", SamplingParams(max_tokens=6), "1")]
        finally:
            engine.shutdown()

    texts = asyncio.run(main())
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_engine_arguments_whole(llm):
    from vllm import LLM, EngineArgs

    args = EngineArgs(max_model_len=64)
    for made in (
        LLM.from_engine_args(args),
        LLM(engine_args=args),
        LLM(max_model_len=64, enforce_eager=True),
    ):
        assert made.llm_engine.model_config.max_model_len == 64
        made.close()


@pytest.mark.parametrize("name", ["encode", "embed", "classify", "score", "sleep", "apply_model", "update_weights"])
def test_what_is_not_there_says_so(llm, name):
    with pytest.raises(RequestError, match=rf"LLM\.{name}: .+"):
        getattr(llm, name)("x")


def test_every_name_of_vllm_is_there():
    import vllm

    names = "LLM LLMEngine AsyncLLMEngine EngineArgs AsyncEngineArgs SamplingParams PoolingParams PromptType TextPrompt"
    names += " TokensPrompt ModelRegistry RequestOutput CompletionOutput PoolingOutput PoolingRequestOutput"
    names += " EmbeddingOutput EmbeddingRequestOutput ClassificationOutput ClassificationRequestOutput ScoringOutput"
    names += " ScoringRequestOutput initialize_ray_cluster __version__"
    assert [name for name in names.split() if not hasattr(vllm, name)] == []
    assert "llama" in vllm.ModelRegistry.get_supported_archs()
    for refused in (lambda: vllm.ModelRegistry.register_model("X", object), vllm.initialize_ray_cluster):
        with pytest.raises(RequestError, match=r"not supported|no code"):
            refused()


def test_installing_where_vllm_is(monkeypatch):
    monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ImportError, match="vllm itself is installed"):
        vllm_compat.install()


ONE_LINE = """
import trivet.vllm_compat as vllm
from trivet.vllm_compat.lora.request import LoRARequest
from trivet.vllm_compat.sampling_params import SamplingParams
assert vllm.sampling_params.SamplingParams is SamplingParams is vllm.SamplingParams
llm = vllm.LLM(max_model_len=64)
print(llm.generate('ROMEO:', SamplingParams(max_tokens=3))[0].outputs[0].finished())
"""
LEFT_RUNNING = """
import asyncio
from trivet import AsyncEngineArgs, AsyncLLM, SamplingParams
engine = AsyncLLM.from_engine_args(AsyncEngineArgs(max_model_len=500))
async def main():
    await anext(engine.generate("ROMEO:", SamplingParams(max_tokens=400, ignore_eos=True), "1"))
asyncio.run(main())
print(engine.is_running)
"""


@pytest.mark.parametrize("script", [ONE_LINE, LEFT_RUNNING], ids=["one line", "left running"])
def test_whole_programs(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


async def test_shutting_down_ends_what_runs():
    from vllm import AsyncEngineArgs, AsyncLLMEngine, SamplingParams

    engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(max_model_len=500))
    outputs = engine.generate("ROMEO:", SamplingParams(max_tokens=400, ignore_eos=True), "1")
    await anext(outputs)
    await asyncio.to_thread(engine.shutdown)
    last = [output async for output in outputs][-1]
    assert (last.finished, last.outputs[0].finish_reason) == (True, "abort")
