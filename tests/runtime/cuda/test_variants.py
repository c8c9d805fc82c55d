"""No request waits for a kernel to be compiled: whatever steps launch has been launched at start.

Triton compiles a kernel anew for integers that are 1 or multiples of 16, for pointers that are not, for other types and
constants. Its own launcher says here what a launch is compiled for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, create_function_from_signature

from tests.native.harness import model_graph
from tests.runtime.cuda import reference
from tests.runtime.cuda.models import graph_runtime
from tests.runtime.cuda.test_sampler import random_logits, random_row
from trivet.engine.plan import StepPlan
from trivet.runtime.cuda import runtime as runtime_module
from trivet.runtime.cuda.device import HostDevice
from trivet.runtime.cuda.sampler import DeviceSampler
from trivet.weights.formats import Format


@cache
def binder(kernel: InterpretedFunction) -> Any:
    function = JITFunction(kernel.fn, **kernel.kwargs)
    return create_function_from_signature(function.signature, function.params, make_backend(GPUTarget("cuda", 90, 32)))


def recorded(monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> set[Hashable]:
    """The variants that have been launched so far; `run` is called in place of each launch."""
    seen: set[Hashable] = set()

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        _, variant, rest = binder(self)(*args, **options)
        seen.add((self.__name__, *variant, *sorted(rest.items())))
        run(self, *args, grid=grid, warmup=warmup, **options)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    return seen


def plan(lengths: list[int], contexts: list[int]) -> StepPlan:
    """Of the last `lengths` tokens of `contexts`."""
    ends = np.cumsum(lengths)
    positions = [np.arange(n - count, n) for count, n in zip(lengths, contexts, strict=True)]
    return StepPlan(
        token_ids=np.zeros(ends[-1], np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        query_starts=np.array([0, *ends], np.int32),
        context_lens=np.array(contexts, np.int32),
        block_tables=np.zeros((len(lengths), max(contexts) // 16 + 1), np.int32),
        logit_rows=(ends - 1).astype(np.int32),
        samples=[],
    )


class Large(HostDevice):
    def memory(self) -> tuple[int, int]:
        return 1 << 40, 1 << 40


MOST = {"max_num_batched_tokens": 1024, "max_num_seqs": 320, "max_model_len": 40960}
SEQUENCES = (1, 2, 3, 5, 8, 16, 17, 31, 64, 132, 256, 320)
CONTEXTS = (1, 16, 500, 512, 513, 1040, 2048, 5000, 8192, 9000, 20000, 32768, 40960)
"""Of up to 80 splits, over 1, 16 and other numbers of programs."""
PROMPTS = (2, 3, 15, 16, 17, 32, 33, 64, 65, 127, 128, 129, 255, 256, 257, 300, 512, 513, 1000, 1024)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(("formats", "experts"), [("BF16", 0), ("F32", 0), ("F16", 4), ("Q4_0 Q8_0", 0), ("Q8_0", 4)])
def test_steps(formats: str, experts: int, eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = recorded(monkeypatch, lambda *args, **options: None)
    monkeypatch.setattr(runtime_module, "DeviceSampler", reference.DeviceSampler)
    model = model_graph(*(Format[name] for name in formats.split()), experts=experts)
    runtime = graph_runtime(model, Large(), enforce_eager=eager, **MOST)
    runtime.available_bytes()
    runtime.allocate_cache(4, 16)
    at_start = set(launched)
    for context in CONTEXTS:
        for count in SEQUENCES:
            runtime.logits(plan([1] * count, [context] * count))
    for length in PROMPTS:
        for others in {min(n, MOST["max_num_batched_tokens"] - length) for n in (0, 1, 20)}:
            for context in (length, length + 7000):
                runtime.logits(plan([length] + [1] * others, [context] + [700] * others))
    assert launched == at_start


def test_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = recorded(monkeypatch, InterpretedFunction.run)
    sampler, rng = DeviceSampler(40, "cpu"), np.random.default_rng(0)
    sampler.warm_up()
    at_start = set(launched)
    for count in (1, 2, 3, 5, 17):
        rows = [random_row(rng, 40) for _ in range(count)]
        sampler.sample(torch.from_numpy(random_logits(rng, count, 40)), sampler.prepare(rows)).collect()
    assert launched == at_start
