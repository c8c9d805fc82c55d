"""Steps on their way to the device: arrays, padding, graphs, tokens that are not known yet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.native.harness import Sequences, model_graph, random_tokens
from tests.runtime.cuda import reference
from tests.runtime.cuda.models import Logits, graph_runtime, sample_row
from trivet.engine.plan import StepPlan
from trivet.errors import DeviceLostError
from trivet.graph.passes import cut
from trivet.runtime.cuda import step as step_module
from trivet.runtime.cuda.device import Event, HostDevice
from trivet.runtime.cuda.graphs import DRIVER_BYTES, batch_buckets, context_buckets, graph_bytes
from trivet.runtime.cuda.step import HostStep, Staging, StepBuffer, resolved, table_width
from trivet.weights.formats import Format


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def plan(ids: list[int], positions: list[int], starts: list[int], tables: list[list[int]], rows: list[int]) -> StepPlan:
    return StepPlan(
        token_ids=ints(*ids),
        positions=ints(*positions),
        query_starts=ints(*starts),
        context_lens=ints(*(positions[stop - 1] + 1 for stop in starts[1:])),
        block_tables=np.array(tables, np.int32),
        logit_rows=ints(*rows),
        samples=[sample_row(positions[row] + 1) for row in rows],
    )


def test_arrays_arrive() -> None:
    given = plan([5, 6, 7, 8], [15, 16, 17, 40], [0, 3, 4], [[3, 1, -1], [0, 2, 9]], [2, 3])
    buffer = StepBuffer(HostDevice())
    for _ in range(3):  # the two buffers take turns
        inputs = buffer.send(HostStep.of(given, 16))
    assert inputs.token_ids.tolist() == [5, 6, 7, 8] and inputs.positions.tolist() == [15, 16, 17, 40]
    assert inputs.slots.tolist() == [3 * 16 + 15, 16, 17, 9 * 16 + 8]
    assert inputs.query_starts.tolist() == [0, 3, 4] and inputs.context_lens.tolist() == [18, 41]
    assert inputs.block_tables[:, :3].tolist() == [[3, 1, -1], [0, 2, 9]] and inputs.block_tables.shape == (2, 16)
    assert (inputs.max_query_len, inputs.max_context_len, inputs.decode, inputs.all_rows) == (3, 41, False, False)
    assert all(tensor.dtype == torch.int32 for tensor in (inputs.slots, inputs.logit_rows, inputs.block_tables))
    assert all(
        tensor.data_ptr() % 16 == inputs.token_ids.data_ptr() % 16 for tensor in (inputs.slots, inputs.logit_rows)
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bfloat16])
def test_staging(dtype: torch.dtype) -> None:
    """A buffer is written when what it held has been copied, and in the target's type."""
    device = Events()
    staging = Staging(device)
    for size in (1, 3, 2, 100, 4):
        target = torch.zeros((size, 5), dtype=dtype)
        values = torch.arange(5 * size).view(size, 5)
        staging.send(target, lambda host, values=values: host.copy_(values))  # type: ignore[misc]
        assert torch.equal(target, values.to(dtype))
    turns = [number for event, number in device.told if event == "waited for"]
    assert turns == [2, 1, 2, 1, 2] and len(device.told) == 10


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("eager", [False, True])
def test_hidden_states_come_from_pinned_memory(eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, checkpoint = model_graph(Format.BF16)
    runtime = graph_runtime((cut(graph, 1)[1], checkpoint), enforce_eager=eager)
    runtime.allocate_cache(4, 16)
    pinned: list[int] = []
    monkeypatch.setattr(
        HostDevice, "pinned_bytes", lambda _, count: (pinned.append(count), torch.empty(count, dtype=torch.uint8))[1]
    )
    hidden = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    runtime.run(plan([3], [0], [0, 1], [[2]], [0]), hidden)
    assert 2 * hidden.size in pinned, "as bfloat16"


def test_padding_writes_nothing() -> None:
    step = HostStep.of(plan([5, 6], [3, 20], [0, 1, 2], [[7, -1], [1, 2]], [0, 1]), 16).padded(4)
    assert step.slots.tolist() == [7 * 16 + 3, 2 * 16 + 4, -1, -1]
    assert step.query_starts.tolist() == [0, 1, 2, 3, 4] and step.context_lens.tolist() == [4, 21, 0, 0]
    assert step.block_tables[2:].any() == 0 and step.logit_rows.tolist() == [0, 1, 2, 3] and step.all_rows


def test_tokens_of_the_step_before() -> None:
    inputs = StepBuffer(HostDevice()).send(HostStep.of(plan([-2, 7, -1], [0, 0, 0], [0, 1, 2, 3], [[0]] * 3, [0]), 16))
    assert resolved(inputs, ints_tensor(40, 41)).token_ids.tolist() == [41, 7, 40]


def ints_tensor(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 16]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_batch_buckets(largest: int, sizes: list[int]) -> None:
    assert batch_buckets(largest) == sizes


@pytest.mark.parametrize(
    ("largest", "bounds"), [(128, [128]), (512, [512]), (600, [512, 600]), (8192, [512, 2048, 8192])]
)
def test_context_buckets(largest: int, bounds: list[int]) -> None:
    assert context_buckets(largest) == bounds


@pytest.mark.parametrize(("context", "width"), [(1, 16), (256, 16), (257, 32), (8192, 512)])
def test_tables_are_of_even_width(context: int, width: int) -> None:
    assert table_width(context, 16) == width


FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: out of memory"),  # when the driver takes it
    RuntimeError("operation failed due to a previous error during capture"),
]
FULL[2].__context__ = FULL[0]


class Captures(HostDevice):
    """Counts; there is memory for some."""

    def __init__(self, memory_for: int = 100, error: Exception = FULL[0]) -> None:
        self.left, self.error = memory_for, error
        self.captured = 0
        self.replayed = 0

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        if self.captured == self.left:
            raise self.error
        self.captured += 1
        run()

        def replay() -> None:
            self.replayed += 1
            run()

        return replay


@pytest.mark.usefixtures("plain_kernels")
def test_graphs_are_captured_once_and_where_there_is_memory() -> None:
    model = model_graph()
    tokens = [random_tokens(10, seed) for seed in range(3)]
    device, small = Captures(), [Captures(1, error) for error in FULL]
    results = []
    for each in (device, *small):
        sequences = Sequences(Logits(graph_runtime(model, each)), tokens)  # type: ignore[arg-type]
        assert each.captured == 1, "the largest batch"
        sequences.step({0: 4, 1: 3})
        for step in ({0: 1}, {0: 1, 1: 1}, {0: 1}, {0: 1, 1: 1}, {1: 1, 2: 1, 0: 1}):
            sequences.step(step)
        results.append([np.array(rows) for rows in sequences.logits])
    assert (device.captured, device.replayed) == (3, 5)
    for each in small:
        assert (each.captured, each.replayed) == (1, 1), "batches of 4 only"
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert (one == other).all()


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize(("sequences", "tokens", "batch"), [(4, 8, 4), (128, 8, 8), (6, 128, 8)])
def test_graphs_are_of_as_many_sequences_as_the_scheduler_runs(sequences: int, tokens: int, batch: int) -> None:
    runtime = graph_runtime(model_graph(), max_num_seqs=sequences, max_num_batched_tokens=tokens)
    runtime.allocate_cache(4, 16)
    graphs = runtime._graphs
    assert graphs is not None and graphs._batches == batch_buckets(batch)
    shared = sum(tensor.nbytes for tensor in vars(graphs).values() if isinstance(tensor, torch.Tensor))
    assert graph_bytes(0, min(sequences, tokens), 128, 16, 50) == shared + len(graphs._batches) * DRIVER_BYTES
    hidden = graph_bytes(0, min(sequences, tokens), 128, 16, 50, 64)
    assert hidden == shared + len(graphs._batches) * DRIVER_BYTES + batch * 64


@pytest.mark.usefixtures("plain_kernels")
def test_what_else_fails_in_a_capture_is_told() -> None:
    sequences = Sequences(Logits(graph_runtime(model_graph(), Captures(1, RuntimeError("odd")))), [[1, 2, 3]])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="odd"):
        sequences.step({0: 1})


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("eager", [False, True])
def test_a_step_may_be_started_before_the_one_before_has_ended(eager: bool) -> None:
    runtime = graph_runtime(model_graph(), enforce_eager=eager)
    runtime.allocate_cache(4, 16)
    first = plan([3, 1, 4, 1, 5], [0, 1, 2, 0, 1], [0, 3, 5], [[2], [0]], [2, 4])
    known = runtime.run(first).tokens.tolist()
    steps = [plan([-1, -2], [3 + i, 2 + i], [0, 1, 2], [[2], [0]], [0, 1]) for i in range(3)]
    apart = []
    for i in range(3):
        tokens = runtime.run(plan(known if not i else apart[-1], [3 + i, 2 + i], [0, 1, 2], [[2], [0]], [0, 1])).tokens
        apart.append(tokens.tolist())
    runtime.start(first)
    pending = [runtime.start(step) for step in steps]
    assert [each.result().tokens.tolist() for each in pending] == apart
    swapped = runtime.start(first), runtime.start(plan([-2, -1], [2, 3], [0, 1, 2], [[0], [2]], [0, 1]))
    assert swapped[1].result().tokens.tolist() == apart[0][::-1]


class Breaking(HostDevice):
    def __init__(self, lost: bool) -> None:
        self.lost = lambda: lost


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("place", ["collect", "prepare"])
@pytest.mark.parametrize(("lost", "error"), [(True, DeviceLostError), (False, RuntimeError)])
def test_a_device_that_is_lost(place: str, lost: bool, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = graph_runtime(model_graph(), Breaking(lost))
    runtime.allocate_cache(4, 16)

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nMore of it")

    owner = reference.DeviceSamples if place == "collect" else reference.DeviceSampler
    monkeypatch.setattr(owner, place, broken)
    with pytest.raises(RuntimeError, match="an illegal memory access was encountered") as raised:
        runtime.run(plan([3, 1], [0, 1], [0, 2], [[2]], [1]))
    assert type(raised.value) is error


@pytest.mark.usefixtures("plain_kernels")
def test_steps_without_logits_draw_nothing() -> None:
    runtime = graph_runtime(model_graph())
    runtime.allocate_cache(4, 16)
    output = runtime.run(plan([3, 1, 4], [0, 1, 2], [0, 3], [[2]], []))
    assert output.tokens.tolist() == [] and output.logprobs == []


class Events(HostDevice):
    """Notes what becomes of them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.made = 0

    def event(self) -> Event:
        self.made += 1
        return SimpleNamespace(
            record=partial(self.told.append, ("recorded", self.made)),
            synchronize=partial(self.told.append, ("waited for", self.made)),
        )


@pytest.mark.usefixtures("plain_kernels")
def test_steps_without_logits_are_waited_for() -> None:
    """Else the engine would start one after the other, and what comes meanwhile would wait for all of them."""
    runtime = graph_runtime(model_graph(), device := Events())
    runtime.allocate_cache(4, 16)
    pending = runtime.start(plan([3, 1, 4], [0, 1, 2], [0, 3], [[2]], []))
    assert device.told[-1] == ("recorded", device.made)
    pending.result()
    assert device.told[-1] == ("waited for", device.made)


def test_the_table_of_what_a_step_sends_is_whole() -> None:
    tensors = [field.name for field in step_module.fields(step_module.StepInputs)][:7]
    assert tensors == [field.name for field in step_module.fields(HostStep)][:7]
    assert tensors[-1] == "block_tables", "graphs count on the others being at the same places, however wide these are"
