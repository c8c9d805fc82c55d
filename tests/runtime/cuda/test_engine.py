"""The engine over the GPU runtime: a request's tokens are those of the CPU, and do not depend on its company."""

from __future__ import annotations

from pathlib import Path

import pytest

import trivet
from tests.engine.fake import Result, request
from tests.engine.test_real_model import run
from tests.models.tiny import MODELS, PROMPT
from tests.runtime.cuda.models import SMALL, load
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.request import EngineRequest
from trivet.runtime import loader
from trivet.runtime.cuda import runtime
from trivet.runtime.cuda.device import HostDevice
from trivet.sampling.params import SamplingParams


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tiny = next(m for m in MODELS if m.name == "qwen3")
    return str(tiny.write_folder(tmp_path_factory.mktemp("model") / "qwen3"))


def requests() -> list[EngineRequest]:
    """Some outgrow a block soon, some begin with the same block; some are longer than a step."""
    prompts = [PROMPT[:15], PROMPT[4:18], PROMPT[2:16], PROMPT[:17], [*PROMPT[:16], 7, 8, 9]]
    return [
        *(request(prompt, f"{i}", temperature=0, max_tokens=5, logprobs=1) for i, prompt in enumerate(prompts)),
        request(PROMPT[:6], "drawn", temperature=0.9, repetition_penalty=1.3, seed=4, max_tokens=5),
    ]


@pytest.fixture
def alone(model: str) -> dict[str, Result]:
    """By the CPU runtime."""
    engine = Engine(EngineConfig(model=model, max_model_len=64, device="cpu", threads=1))
    results: dict[str, Result] = {}
    for each in requests():
        results |= run(engine, [each])
    return results


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize(
    "fields",
    [{"num_blocks": 3, "max_model_len": 48, "max_num_batched_tokens": 48}, {"enforce_eager": True}, {"archive": True}],
    ids=str,
)
def test_tokens_are_those_of_the_cpu(
    model: str, alone: dict[str, Result], fields: dict[str, object], tmp_path: Path
) -> None:
    """In float32: chunked prompts, found prefixes, preemptions, with and without graphs."""
    given = SMALL | {"max_model_len": 64} | fields
    if given.pop("archive", False):
        given["prefix_cache_dir"] = str(tmp_path)
    engine = Engine(EngineConfig(model=model, **given), load)  # type: ignore[arg-type]
    for _ in range(2):  # the second time, all of it is in the cache
        results = run(engine, requests())
        assert {name: result.tokens for name, result in results.items()} == {
            name: result.tokens for name, result in alone.items()
        }
    assert engine.stats().cached_tokens > 0
    assert (engine.stats().preemptions > 0) == ("num_blocks" in fields)
    engine.close()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were one."""
    monkeypatch.setattr(loader, "_usable", lambda wanted: "cuda")
    monkeypatch.setattr(runtime, "CudaDevice", HostDevice)


@pytest.mark.usefixtures("plain_kernels", "gpu")
def test_the_last_layers_may_be_on_the_gpu_alone(model: str, alone: dict[str, Result]) -> None:
    config = EngineConfig(model=model, **SMALL | {"max_model_len": 64}, gpu_layers=1, num_blocks=8)
    engine = Engine(config)
    assert engine.info.device.startswith("2 layers on cpu (") and engine.info.device.endswith("1 on cuda (torch's CPU)")
    assert engine.runtime.info.partly_dedicated_memory and not engine.runtime.info.dedicated_memory
    results = run(engine, requests())
    assert {name: r.tokens for name, r in results.items()} == {name: r.tokens for name, r in alone.items()}
    engine.close()


PROMPTS = ["KING:", "What news of", "The"]


def texts(device: str, count: int, prompts: list[str]) -> list[tuple[int, ...]]:
    with trivet.LLM(
        device=device, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=8, num_gpu_blocks_override=16
    ) as llm:
        assert llm.llm_engine.model_config is not None
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=count))
    return [tuple(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.usefixtures("plain_kernels", "gpu")
def test_llm() -> None:
    """The built-in model, whose weights the GPU has in bfloat16."""
    assert texts("auto", 8, PROMPTS) == texts("cpu", 8, PROMPTS)
