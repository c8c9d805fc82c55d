"""A model in two parts, both on the CPU: the same to the bit wherever it is cut, in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.fake import Result, request
from tests.engine.test_real_model import run
from tests.models.tiny import MODELS, PROMPT, VOCAB, Tiny
from tests.runtime.test_cpu import greedy, plan
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.plan import StepPlan
from trivet.engine.request import EngineRequest
from trivet.graph.ops import Graph
from trivet.models import registry
from trivet.models.config import ModelConfig
from trivet.runtime.base import Runtime
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.hybrid import HybridRuntime, place
from trivet.weights import open_checkpoint

LAYERS = 3


def load(path: Path, last_layers: int, **settings: str) -> Runtime:
    checkpoint = open_checkpoint(str(path))
    model = ModelConfig.from_checkpoint(checkpoint, None)

    def on(threads: int):
        def make(graph: Graph) -> CpuRuntime:
            return CpuRuntime(graph, checkpoint, model, threads, settings.get("kv_cache_dtype", "auto"))

        return make

    return place(registry.build(model, checkpoint), last_layers, on(1), on(2))


def allocated(runtime: Runtime) -> Runtime:
    runtime.allocate_cache(8, 16)
    return runtime


@pytest.fixture(scope="module", params=MODELS, ids=str)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model: Tiny = request.param
    return model.write_folder(tmp_path_factory.mktemp("model") / model.name)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[0].write_folder(tmp_path_factory.mktemp("model") / "llama")


def logits(runtime: Runtime, step: StepPlan) -> np.ndarray:
    if isinstance(runtime, HybridRuntime):
        assert isinstance(runtime.last, CpuRuntime)
        return runtime.last.forward(step, runtime.first.forward(step)).copy()
    assert isinstance(runtime, CpuRuntime)
    return runtime.forward(step).copy()


def test_logits_are_those_of_the_whole_wherever_it_is_cut(tiny: Path) -> None:
    whole = allocated(load(tiny, 0))
    expected = logits(whole, plan(PROMPT, 0, [*range(len(PROMPT))]))
    tokens = greedy(whole, PROMPT, 8)
    for last_layers in range(1, whole.info.num_layers):
        parts = allocated(load(tiny, last_layers))
        assert isinstance(parts, HybridRuntime)
        assert (logits(parts, plan(PROMPT, 0, [*range(len(PROMPT))])) == expected).all()
        assert greedy(parts, PROMPT, 8) == tokens
        for start, stop in ((0, 7), (7, 8), (8, 31), (31, 40)):
            piece = logits(parts, plan(PROMPT[start:stop], start, [*range(stop - start)]))
            assert (piece == expected[start:stop]).all()
        parts.close()


@pytest.mark.parametrize(("last_layers", "threads"), [(0, 1), (-1, 1), (LAYERS, 2), (LAYERS + 1, 2), (99, 2)])
def test_all_or_none_of_the_layers_are_no_hybrid(llama: Path, last_layers: int, threads: int) -> None:
    runtime = load(llama, last_layers)
    assert isinstance(runtime, CpuRuntime)
    assert runtime.program.threads == threads


@pytest.mark.parametrize("last_layers", range(1, LAYERS))
def test_what_the_parts_say_together(llama: Path, last_layers: int) -> None:
    whole, parts = load(llama, 0), load(llama, last_layers)
    assert isinstance(parts, HybridRuntime)
    assert parts.info.weight_bytes == whole.info.weight_bytes
    assert parts.info.device.startswith(f"{LAYERS - last_layers} layers on cpu (")
    assert f", {last_layers} on cpu (" in parts.info.device and parts.info.device.endswith(", 2 threads)")
    of_first, of_last = parts.first.block_bytes(32), parts.last.block_bytes(32)
    assert of_first + of_last == parts.block_bytes(32) == whole.block_bytes(32)
    assert of_first * last_layers == of_last * (LAYERS - last_layers)
    assert parts.identity() != load(llama, LAYERS - last_layers).identity()
    assert parts.identity() == load(llama, last_layers).identity()


@pytest.mark.parametrize(("first", "last", "blocks"), [(1000, 10, 10), (10, 1000, 10), (10.9, 11, 10), (0, 5, 0)])
def test_the_cache_is_as_large_as_both_have_room_for(llama: Path, first: float, last: float, blocks: int) -> None:
    parts = load(llama, 1)
    assert isinstance(parts, HybridRuntime)
    for runtime, count in ((parts.first, first), (parts.last, last)):
        available = int(count * runtime.block_bytes(16))
        runtime.available_bytes = lambda available=available: available  # type: ignore[method-assign]
    assert parts.available_bytes() // parts.block_bytes(16) == blocks
    assert parts.available_bytes() // parts.block_bytes(32) == blocks // 2


def test_blocks_are_copied_from_both(llama: Path) -> None:
    whole, one, other = (allocated(load(llama, last_layers)) for last_layers in (0, 1, 1))
    step = plan(PROMPT[:16], 0, [15])
    expected = logits(whole, step)
    assert (logits(one, step) == expected).all()
    block = one.read_block(0)
    assert block.shape == (one.block_bytes(16),)
    other.write_block(0, block)
    assert (other.read_block(0) == block).all()
    after = plan(PROMPT[16:20], 16, [*range(4)])
    assert (logits(other, after) == logits(whole, after)).all()


def test_a_step_of_the_wrong_hidden_states_is_refused(llama: Path) -> None:
    parts = allocated(load(llama, 1))
    assert isinstance(parts, HybridRuntime) and isinstance(parts.first, CpuRuntime)
    step = plan(PROMPT[:4], 0, [3])
    hidden = parts.first.forward(step).copy()
    assert hidden.shape == (4, parts.info.hidden_size) and hidden.dtype == np.float32
    for wrong in (None, hidden[:3], np.ascontiguousarray(hidden[:, :-1])):
        with pytest.raises(ValueError, match=f"hidden must have {hidden.shape[1]} columns"):
            parts.last.run(step, wrong)
    with pytest.raises(ValueError, match="hidden must have 0 columns"):
        parts.first.forward(step, hidden)
    with pytest.raises(ValueError, match=r"token_ids\[0\]"):
        parts.first.forward(plan([-1], 0, [0]))


def requests() -> list[EngineRequest]:
    rng = np.random.default_rng(3)
    mix = []
    for i in range(12):
        prompt = PROMPT[: rng.integers(1, 40)] + rng.integers(0, VOCAB, rng.integers(1, 6)).tolist()
        choices: list[dict] = [
            {},
            {"temperature": 0},
            {"mirostat": 2},
            {"prompt_logprobs": 1, "repetition_penalty": 1.2},
        ]
        mix.append(request(prompt, f"{i}", seed=i, max_tokens=20, logprobs=2, **choices[i % 4]))
    return mix


@pytest.fixture(scope="module")
def expected(llama: Path) -> dict[str, Result]:
    engine = Engine(EngineConfig(model="", max_model_len=96), lambda _: load(llama, 0))
    results: dict[str, Result] = {}
    for r in requests():
        results |= run(engine, [r])
    return results


@pytest.mark.parametrize("last_layers", range(1, LAYERS))
@pytest.mark.parametrize("fields", [{}, {"max_num_batched_tokens": 9}, {"num_blocks": 8}, {"archive": True}], ids=str)
def test_a_request_gets_the_same_in_any_company(
    llama: Path, expected: dict[str, Result], last_layers: int, fields: dict, tmp_path: Path
) -> None:
    if fields.pop("archive", False):
        fields["prefix_cache_dir"] = str(tmp_path)
    for _ in range(2):
        engine = Engine(EngineConfig(model="", max_model_len=96, **fields), lambda _: load(llama, last_layers))
        for _ in range(2):  # the second time, prompts and outputs are in the cache
            assert run(engine, requests()) == expected
        assert engine.stats().cached_tokens > 0
        assert (engine.stats().preemptions > 0) == ("num_blocks" in fields)
        engine.close()
