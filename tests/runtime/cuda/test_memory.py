"""What there is no memory for is refused at start, with the numbers and what to change."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime.errors import OutOfResources

from tests.native.harness import model_graph
from tests.runtime.cuda import reference
from tests.runtime.cuda.models import SMALL, graph_runtime
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.memory import size_cache
from trivet.errors import EngineError, ModelError
from trivet.runtime.cuda import cache, program, weights
from trivet.runtime.cuda import runtime as runtime_module
from trivet.runtime.cuda.device import CudaDevice, HostDevice, check_compiler
from trivet.runtime.cuda.graphs import batch_buckets
from trivet.runtime.cuda.memory import MOST_SEQUENCES, history_bytes, largest_steps
from trivet.runtime.cuda.runtime import CudaRuntime
from trivet.runtime.cuda.step import StepInputs

pytestmark = pytest.mark.usefixtures("plain_kernels")

GIB = 1 << 30


class Card(HostDevice):
    """With so much memory free of 8 GiB; a step takes 1 GiB."""

    name = "Test Card"

    def __init__(self, free: int) -> None:
        self.free = free

    def memory(self) -> tuple[int, int]:
        return self.free, 8 * GIB

    def peak_bytes(self, run: Callable[[], None]) -> int:
        run()
        return GIB


def test_the_cache_takes_what_may_be_in_use() -> None:
    runtime = graph_runtime(model_graph(), Card(7 * GIB), gpu_memory_utilization=0.5, enforce_eager=True)
    assert runtime.available_bytes() == 4 * GIB - GIB - GIB - history_bytes(4, 128)
    config = EngineConfig(model="random", **SMALL, gpu_memory_utilization=0.5)
    assert size_cache(config, runtime) == (128, (2 * GIB - history_bytes(4, 128)) // runtime.block_bytes(16))
    graphs = graph_runtime(model_graph(), Card(7 * GIB), gpu_memory_utilization=0.5)
    assert GIB // 2 < graphs.available_bytes() < GIB, "as much again, and some"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gpu_memory_utilization": 0.2},
            r"0.2 lets 1.60 GiB of 8.00 GiB be in use: 1.00 GiB are already, ",
        ),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization must be more than 0 and at most 1, got 0"),
        ({"kv_cache_dtype": "q8_0"}, "kv_cache_dtype must be one of auto, f32, f16, bf16, fp8 on a GPU, got q8_0"),
        ({"kv_cache_dtype": "f16/auto"}, "on a GPU keys and values have one type, got f16 and"),
        (
            {"max_num_seqs": 65529, "max_num_batched_tokens": 70000},
            "up to 65528 sequences: max_num_seqs 65529 or max_num_batched_tokens 70000 must be lower",
        ),
        ({"numerics": "loose"}, "numerics must be exact or fast, got loose"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        graph_runtime(model_graph(), Card(7 * GIB), **settings).available_bytes()


@pytest.mark.parametrize(("there", "message"), [(89, None), (86, "a GPU of compute capability 8.9 or more, .* 8.6")])
def test_fp8_where_there_is_none(there: int, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "capability", lambda _: there)
    if message is None:
        graph_runtime(model_graph(), kv_cache_dtype="fp8")
    else:
        with pytest.raises(EngineError, match=message):
            graph_runtime(model_graph(), kv_cache_dtype="fp8")


def test_what_is_closed_is_free_at_once() -> None:
    """However long the collector waits: the next model needs the memory."""
    runtime = graph_runtime(model_graph())
    runtime.allocate_cache(4, 16)
    held = [weakref.ref(tensor) for tensor in (*runtime._program.cache.layers[0], runtime._drawn)]
    matrices = runtime._program._weights._matrices.values()
    held += [weakref.ref(matrix.values) for matrix in matrices]
    del matrices
    assert len(held) > 5
    gc.disable()
    try:
        runtime.close()
        assert [ref for ref in held if ref() is not None] == []
    finally:
        gc.enable()
    graph_runtime(model_graph()).close()


@pytest.mark.parametrize(("room", "context"), [(GIB, 512), (10 * 32768, 160), (1, 0), (-1, None)])
def test_histories_are_at_most_as_long_as_the_cache(room: int, context: int | None) -> None:
    card = Card(GIB + room)
    runtime = graph_runtime(model_graph(), card, max_model_len=512, gpu_memory_utilization=1.0, enforce_eager=True)
    assert runtime.block_bytes(16) == 32768
    if context is None:
        with pytest.raises(EngineError, match="no room for the KV cache"):
            runtime.available_bytes()
    else:
        assert runtime.available_bytes() == room - history_bytes(4, context)


def test_the_largest_step_follows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose results are not fetched yet."""
    flights: list[int] = []

    def note(more: int, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (flights.append(more), method(*args))[1]

    monkeypatch.setattr(reference.DeviceSampler, "sample", note(1, reference.DeviceSampler.sample))
    monkeypatch.setattr(reference.DeviceSamples, "collect", note(-1, reference.DeviceSamples.collect))
    runtime = graph_runtime(model_graph())
    runtime.available_bytes()
    assert max(accumulate(flights)) == 2 and sum(flights) == 0


def test_a_refused_start_leaves_nothing() -> None:
    held: list[weakref.ref[Any]] = []

    def load(_: EngineConfig) -> CudaRuntime:
        runtime = graph_runtime(model_graph(), Card(7 * GIB), gpu_memory_utilization=0.2)
        held.extend(weakref.ref(matrix.values) for matrix in runtime._program._weights._matrices.values())
        return runtime

    gc.disable()
    try:
        with pytest.raises(EngineError, match=r"gpu_memory_utilization 0.2 lets"):
            Engine(EngineConfig(model="random", **SMALL), load)
        assert len(held) > 5 and [ref for ref in held if ref() is not None] == []
    finally:
        gc.enable()


def test_wrong_block_sizes() -> None:
    with pytest.raises(EngineError, match="block_size must be one of 16, 32, 64, 128 on a GPU, got 24"):
        graph_runtime(model_graph()).block_bytes(24)


def test_sequences_that_a_step_cannot_have_do_not_count() -> None:
    graph_runtime(model_graph(), max_num_seqs=1 << 20)


def test_graphs_of_the_most_sequences_fit_into_a_grid() -> None:
    assert batch_buckets(MOST_SEQUENCES)[-1] <= 65535 < batch_buckets(MOST_SEQUENCES + 1)[-1]


def test_heads_that_are_too_wide() -> None:
    graph, checkpoint = model_graph()
    graph.cache[1] = replace(graph.cache[1], head_dim=288)
    with pytest.raises(EngineError, match="heads of up to 256 columns, got 288: use device cpu"):
        graph_runtime((graph, checkpoint))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_pytorch_that_does_not_find_the_gpu() -> None:
    with pytest.raises(
        EngineError, match=r"^device cuda: PyTorch 2.* cannot use the GPU and says: \w.*use device cpu$"
    ):
        CudaDevice()


def test_what_triton_needs() -> None:
    with pytest.raises(
        EngineError, match=r"Triton needs a C compiler and Python's headers .gcc.* says: .*use device cpu"
    ):
        check_compiler()  # There is no GPU that it could be for.


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError


def full_without_pytorch(*_: Any, **__: Any) -> Any:
    """As of a kernel that is loaded, or pinned memory."""
    raise RuntimeError("Triton Error [CUDA]: out of memory")


def test_a_gpu_without_room_for_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", full_without_pytorch)
    with pytest.raises(EngineError, match=r"cannot use the GPU and says: .*out of memory; .* free the GPU's memory"):
        CudaDevice()


def full_in_cublas(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def without_cublas(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize("full", [full, full_without_pytorch])
@pytest.mark.parametrize("place", ["Upload", "_linear", "kernel_rows"])
def test_weights_that_do_not_fit(full: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = next(each for each in (weights, program.Program, runtime_module) if hasattr(each, place))
    monkeypatch.setattr(owner, place, full)
    with pytest.raises(EngineError, match=r"for the weights, .*: 7.00 GiB of 8.00 GiB are still free; use a"):
        graph_runtime(model_graph(), Card(7 * GIB))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]


def test_memory_of_which_nothing_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asking for it takes some, too."""
    monkeypatch.setattr(program.Program, "_linear", full)
    monkeypatch.setattr(Card, "memory", full_without_pytorch)
    with pytest.raises(EngineError, match=r"on Test Card for the weights, .*; use a"):
        graph_runtime(model_graph(), Card(GIB))


@pytest.mark.parametrize("name", ["StepBuffer", "DeviceSampler"])
def test_buffers_of_steps_that_do_not_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, name, full)
    with pytest.raises(EngineError, match=r"memory .* a step of max_num_batched_tokens 8 and max_num_seqs 4"):
        graph_runtime(model_graph(), Card(7 * GIB))


@pytest.mark.parametrize("full", [full, full_without_pytorch, full_in_cublas, without_cublas])
def test_steps_that_do_not_fit(full: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = graph_runtime(model_graph(), Card(7 * GIB))
    monkeypatch.setattr(program.Program, "run", full)
    with pytest.raises(EngineError, match=r"memory .* a step of max_num_batched_tokens 8 and max_num_seqs 4"):
        runtime.available_bytes()


def test_kernels_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*_: Any) -> None:
        raise OutOfResources(180224, 101376, "shared memory")

    runtime = graph_runtime(model_graph(), Card(7 * GIB), kv_cache_dtype="f32")
    monkeypatch.setattr(program.Program, "run", large)
    with pytest.raises(
        EngineError,
        match=r"needs 180224 of shared memory, and Test Card has 101376: .* \(here 32 columns\) .* kv_cache_dtype "
        r"\(here f32\); try bf16 or fp8, or use device cpu",
    ):
        runtime.available_bytes()


def test_a_cache_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = graph_runtime(model_graph(), Card(7 * GIB))
    monkeypatch.setattr(cache, "_zeros", full)
    with pytest.raises(
        EngineError, match=r"not enough memory .* a KV cache of 9999 blocks, 312.47 MiB: .* gpu_memory_utilization"
    ):
        runtime.allocate_cache(9999, 16)


@pytest.mark.parametrize(("tokens", "sequences", "context"), [(8, 4, 128), (2048, 128, 512), (64, 128, 8192)])
def test_the_largest_steps(tokens: int, sequences: int, context: int) -> None:
    prompt, decode = largest_steps(tokens, sequences, context, 16)
    assert len(prompt.token_ids) == tokens and len(prompt.logit_rows) == min(tokens, sequences + 256)
    assert np.diff(prompt.query_starts).max() == min(tokens, context)
    assert len(decode.context_lens) == min(tokens, sequences) and decode.all_rows and decode.max_query_len == 1
    for step in (prompt, decode):
        assert (step.slots == -1).all() and step.max_context_len <= context and not step.block_tables.any()
    assert decode.max_context_len == context


def test_kernels_for_all_numbers_of_rows_are_compiled_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "kernel_rows", lambda matrices, dtype, most: [2, 4, most])
    runtime = graph_runtime(model_graph())
    seen = set()
    run = program.Program.run

    def noted(self: program.Program, step: StepInputs) -> torch.Tensor | None:
        seen.add((len(step.token_ids), step.decode))
        return run(self, step)

    monkeypatch.setattr(program.Program, "run", noted)
    runtime.available_bytes()
    assert seen == {(2, False), (2, True), (4, False), (4, True), (8, False)}  # of at most 8 tokens and 4 sequences


def test_weights_are_read_with_progress_and_checked() -> None:
    graph, checkpoint = model_graph()
    seen: list[tuple[int, int]] = []
    runtime = graph_runtime((graph, checkpoint), progress=lambda done, total: seen.append((done, total)))
    assert 4.7e6 < seen[0][1] == seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    assert runtime.info.weight_bytes >= seen[-1][1] and runtime.info.device == "cuda (torch's CPU)"
    del checkpoint.data["0.o.weight"]
    with pytest.raises(ModelError, match=r"there is no tensor 0.o.weight"):
        graph_runtime((graph, checkpoint))
