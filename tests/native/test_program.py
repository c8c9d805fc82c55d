"""Compiled programs: right, the same however the work is cut, and proof against anything from Python."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.blocks import BLOCK_FORMATS
from tests.native.harness import (
    VOCAB,
    RandomCheckpoint,
    Sequences,
    experts_graph,
    ints,
    logits,
    model_graph,
    program,
    random_tokens,
)
from tests.native.test_gemm import quantized
from trivet import _native
from trivet.errors import ModelError
from trivet.graph.builder import GraphBuilder
from trivet.graph.ops import Graph, Op, Weight
from trivet.runtime.compiler import compile_program
from trivet.weights.formats import Format

FLOATS = (Format.F32, Format.F16, Format.BF16)
QUANTS = tuple(BLOCK_FORMATS)
MIXTURES = [FLOATS, QUANTS[:9], QUANTS[9:17], QUANTS[17:], FLOATS + QUANTS[::-2]]
MODELS = [(format,) for format in (*FLOATS, Format.Q8_0, Format.Q4_0, Format.Q4_K, Format.Q6_K)] + MIXTURES
ALL = [((format,), 0) for format in FLOATS + QUANTS] + [(formats, 5) for formats in MODELS]


@pytest.mark.parametrize(
    ("formats", "experts"), ALL, ids=lambda x: "+".join(f.name for f in x) if isinstance(x, tuple) else f"{x} experts"
)
def test_against_float64(formats: tuple[Format, ...], experts: int) -> None:
    model = model_graph(*formats, experts=experts)
    tokens = random_tokens(40)
    expected = reference.run(model[0], reference.Weights(model[1]), tokens)
    error = np.abs(logits(program(model, threads=2), tokens) - expected) / np.ptp(expected)
    # Activations of BF16 are, to bfloat16.
    rounded = _native.system_info()["isa"] in ("avx512_bf16", "amx") and Format.BF16 in formats
    if set(formats) <= set(FLOATS) and not rounded:
        assert error.max() < 1e-5
    else:  # rounding may choose another expert
        assert (np.median(error) if experts else error.max()) < 0.05


EXPERTS = [(fmt, fmt, fmt) for fmt in FLOATS + QUANTS] + [
    (fmt, QUANTS[i - 5], QUANTS[i - 9]) for i, fmt in enumerate(QUANTS)
]
WIDTHS = {1: (99, 353), 32: (288, 352), 64: (320, 448), 128: (384, 640), 256: (256, 768)}
"""Of experts whose largest block is this: of their input, and of what is hidden."""


def moe_of_rounded_rows(step: reference.Step, op: Op, x: np.ndarray) -> np.ndarray:
    """The reference's, of activations as the kernels round them."""
    router, gate, up, down = (step.load(w) for w in op.weights)
    formats = [step.weights.checkpoint.tensors[w.name].format for w in op.weights[1:]]
    probabilities = reference.softmax(x @ router.T)
    best = np.argsort(-probabilities, axis=-1)[:, : op.attrs["top_k"]]
    shares = np.take_along_axis(probabilities, best, -1)
    shares *= op.attrs["scale"] / shares.sum(-1, keepdims=True)
    y = np.zeros_like(x)

    def product(rows: np.ndarray, fmt: Format, matrix: np.ndarray) -> np.ndarray:
        return quantized(fmt, rows.astype(np.float32))[0] @ matrix.T

    for e in range(len(router)):
        rows, rank = np.nonzero(best == e)
        gated, raised = product(x[rows], formats[0], gate[e]), product(x[rows], formats[1], up[e])
        hidden = reference.activation(op.attrs["act"], gated) * raised
        y[rows] += shares[rows, rank][:, None] * product(hidden, formats[2], down[e])
    return y


@pytest.mark.parametrize("formats", EXPERTS, ids=lambda formats: "+".join(f.name for f in formats))
def test_experts_against_float64(formats: tuple[Format, Format, Format], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every token alone, of a few for each expert, and of more than share one pass over the weights."""
    monkeypatch.setitem(reference.OPS, "moe", moe_of_rounded_rows)
    model = experts_graph(*WIDTHS[max(fmt.block_size for fmt in formats)], *formats)
    expected = reference.run(model[0], reference.Weights(model[1]), range(VOCAB))
    tokens = [*range(VOCAB), *random_tokens(400)]
    compiled = program(model, threads=2)
    for count, chunk in [(VOCAB, 1), (150, 37), (len(tokens), 500)]:
        got, want = logits(compiled, tokens[:count], chunk), expected[tokens[:count]]
        error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
        # Few rows have a hidden value that is rounded the other way, by the float32 before it.
        assert np.median(error) < 2e-6
        assert error.max() < (2e-6 if set(formats) <= {Format.F32, Format.F16} else 3e-3)


@pytest.mark.parametrize("experts", [0, 5])
def test_matrices_may_have_a_factor_of_their_own(experts: int) -> None:
    graph, checkpoint = model_graph(Format.NVFP4, experts=experts)
    for name, info in list(checkpoint.tensors.items()):
        if info.format is Format.NVFP4:
            checkpoint.add(name.replace(".weight", ".scale"), *(info.shape[:-2] or (1,)))
            checkpoint.add(name.replace(".weight", ".input_scale"), 1)
    tokens = random_tokens(10)
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    error = np.abs(logits(program((graph, checkpoint), threads=2), tokens) - expected) / np.ptp(expected)
    assert (np.median(error) if experts else error.max()) < 0.05  # rounding may choose another expert
    builder = GraphBuilder(checkpoint.tensors)
    builder.linear(builder.embed("embd", VOCAB, 256), "0.o", 256)
    assert builder.used == {f"{name}.{kind}" for name in ("embd", "0.o") for kind in ("weight", "scale", "input_scale")}


Expected = dict[tuple[tuple[Format, ...], int], tuple[tuple[Graph, RandomCheckpoint], list[np.ndarray]]]


@pytest.fixture(scope="module")
def expected() -> Expected:
    """Models, and the logits of PROMPTS alone, as they come to be needed."""
    return {}


PROMPTS = [random_tokens(n, seed=n) for n in (1, 16, 37, 70)]


@settings(max_examples=25)
@given(
    formats=st.sampled_from(MODELS),
    experts=st.sampled_from([0, 5]),
    threads=st.integers(1, 4),
    block_size=st.sampled_from([16, 32, 64, 128]),
    optimized=st.booleans(),
    data=st.data(),
)
def test_rows_are_the_same_however_they_come(
    expected: Expected,
    formats: tuple[Format, ...],
    experts: int,
    threads: int,
    block_size: int,
    optimized: bool,
    data: st.DataObject,
) -> None:
    if (formats, experts) not in expected:
        model = model_graph(*formats, experts=experts)
        expected[formats, experts] = model, [logits(program(model), tokens) for tokens in PROMPTS]
    model, alone = expected[formats, experts]
    batch = Sequences(program(model, threads, optimized=optimized), PROMPTS, block_size)
    while waiting := {s: len(p) - batch.done[s] for s, p in enumerate(PROMPTS) if batch.done[s] < len(p)}:
        chosen = data.draw(st.lists(st.sampled_from(sorted(waiting)), min_size=1, unique=True))
        batch.step({s: data.draw(st.sampled_from([1, waiting[s], (waiting[s] + 1) // 2])) for s in chosen})
    for got, want in zip(batch.logits, alone, strict=True):
        assert (np.array(got) == want).all()


def test_rows_are_the_same_in_every_step_of_a_long_batch() -> None:
    """More rows than share one pass over the weights."""
    model = model_graph(Format.Q8_0, experts=5)
    tokens = random_tokens(300)
    alone = logits(program(model), tokens, chunk=1)
    assert (logits(program(model, threads=3), tokens) == alone).all()


def test_only_the_rows_asked_for() -> None:
    model = model_graph()
    compiled = program(model)
    every = logits(compiled, tokens := random_tokens(20))
    plan = plan_of(tokens) | {"logit_rows": ints([3, 19])}
    assert (compiled.run(**plan) == every[[3, 19]]).all()
    assert compiled.run(**plan | {"logit_rows": ints([])}).shape == (0, VOCAB)
    assert (compiled.run(**plan | {"logit_rows": np.full(5000, 7, np.int32)}) == every[7]).all()


def test_an_idle_program_takes_no_time() -> None:
    compiled = program(model_graph(), threads=4)
    compiled.allocate_cache(8, 16)
    compiled.run(**plan_of([1]))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.02


def test_one_run_at_a_time() -> None:
    compiled = program(model_graph())
    compiled.allocate_cache(8, 16)
    deadline = time.monotonic() + 20
    refusals: list[str] = []

    def run() -> None:
        while not refusals and time.monotonic() < deadline:
            try:
                compiled.run(**plan_of(random_tokens(100)))
            except RuntimeError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refusals) == {"the program is at work for another thread"}


def test_threads_that_come_and_go() -> None:
    """A short step takes one thread, a longer one more, in no order."""
    model = model_graph(Format.Q4_0)
    tokens = random_tokens(120)
    sequences = Sequences(program(model, threads=4), [tokens] * 4)
    counts = np.random.default_rng(0).choice([1, 1, 2, 9, 20], (40, 4))
    for row in counts:
        left = [len(tokens) - done for done in sequences.done]
        sequences.step({s: min(int(n), left[s]) for s, n in enumerate(row) if left[s]})
    for rows in sequences.logits[1:]:
        assert (np.array(rows) == np.array(sequences.logits[0])[: len(rows)]).all()


def test_logits_outlive_the_program() -> None:
    compiled = program(model_graph())
    compiled.allocate_cache(8, 16)
    first = compiled.run(**plan_of([1, 2, 3]))
    copy = first.copy()
    compiled.run(**plan_of(random_tokens(100)))
    del compiled
    assert first.shape == copy.shape and np.isfinite(first).all()


def test_dependent_steps_alone_are_parted_by_barriers() -> None:
    listing = " ".join(program(model_graph(), threads=2).listing)
    to_attention = "linear | rms_norm rope rope attention.store | attention"
    feed_forward = "feed_forward.gate_up | feed_forward.down scale"
    to_layer = f"pack | linear | add rms_norm pack | {feed_forward} | add rms_norm pack"
    assert listing == " | ".join(
        [
            "rotary rotary embed rms_norm pack",
            *(to_attention, to_layer),
            *(to_attention, "select | select " + to_layer),
            "logits",
        ]
    )


def plan_of(tokens: list[int]) -> dict[str, np.ndarray]:
    count = len(tokens)
    return {
        "token_ids": ints(tokens),
        "positions": ints(range(count)),
        "query_starts": ints([0, count]),
        "context_lens": ints([count]),
        "block_tables": ints(range(8))[None],
        "logit_rows": ints(range(count)),
    }


BAD_PLANS: list[tuple[dict[str, Any], str]] = [
    ({"token_ids": ints([0, 1, VOCAB])}, r"token_ids\[2\] is 50, must be 0 to 49"),
    ({"token_ids": ints([0, -1, 1])}, r"token_ids\[1\] is -1"),
    ({"token_ids": np.array([1.0, 2.0, 3.0])}, r"token_ids must be a C-contiguous int32 array \[n\]"),
    ({"token_ids": np.array([1, 2, 3])}, "token_ids must be a C-contiguous int32"),
    ({"token_ids": ints(range(6))[::2]}, "token_ids must be a C-contiguous int32"),
    ({"token_ids": ints([[1, 2, 3]][0])[None]}, "token_ids must be a C-contiguous int32"),
    ({"positions": ints([0, 1])}, r"positions must be a C-contiguous int32 array \[3\], got 32-bit \[2\]"),
    ({"positions": ints([0, 2, 3])}, r"positions\[1\] is 2, must be one more"),
    ({"positions": ints([-1, 0, 1])}, r"positions\[0\] is -1"),
    ({"positions": ints([2**31 - 3, 2**31 - 2, 2**31 - 1])}, r"positions\[0\] is 2147483645"),
    ({"positions": ints([1, 2, 3])}, r"context_lens\[0\] is 3, must be 4"),
    ({"positions": ints([126, 127, 128]), "context_lens": ints([129])}, "at most 128, what its block table holds"),
    ({"query_starts": ints([1, 3])}, r"query_starts\[0\] is 1, must be 0"),
    ({"query_starts": ints([0, 2])}, r"context_lens\[0\] is 3, must be 2"),
    ({"query_starts": ints([0, 4])}, r"query_starts\[1\] is 4, must be 0 to 3"),
    ({"query_starts": ints([0, -1])}, r"query_starts\[1\] is -1"),
    ({"query_starts": ints([0, 3, 3])}, r"query_starts must be a C-contiguous int32 array \[2\]"),
    ({"query_starts": ints([0]), "context_lens": ints([]), "block_tables": np.zeros((0, 8), np.int32)}, "must be 3"),
    ({"context_lens": ints([4])}, r"context_lens\[0\] is 4, must be 3"),
    ({"block_tables": np.full((1, 8), 8, np.int32)}, r"block_tables\[0\]\[0\] is 8, must be 0 to 7"),
    ({"block_tables": np.full((1, 8), -1, np.int32)}, r"block_tables\[0\]\[0\] is -1"),
    ({"block_tables": np.zeros((1, 0), np.int32)}, "at most 0, what its block table holds"),
    ({"block_tables": ints(range(8))}, r"block_tables must be a C-contiguous int32 array \[1, n\], got 32-bit \[8\]"),
    ({"logit_rows": ints([3])}, r"logit_rows\[0\] is 3, must be 0 to 2"),
    ({"logit_rows": ints([-1])}, r"logit_rows\[0\] is -1"),
]


@pytest.mark.parametrize(("change", "message"), BAD_PLANS)
def test_bad_plans_are_refused(change: dict[str, Any], message: str) -> None:
    compiled = program(model_graph())
    compiled.allocate_cache(8, 16)
    with pytest.raises(ValueError, match=message):
        compiled.run(**plan_of([1, 2, 3]) | change)
    assert compiled.run(**plan_of([1, 2, 3])).shape == (3, VOCAB)


@pytest.fixture(scope="module")
def two_threads() -> _native.Program:
    compiled = program(model_graph(), threads=2)
    compiled.allocate_cache(4, 16)
    return compiled


@given(data=st.data())
@settings(max_examples=200)
def test_no_plan_crashes(two_threads: _native.Program, data: st.DataObject) -> None:
    value = st.sampled_from([0, 0, 1, 1, 2, 3, 15, 16, -1, 2**31 - 1, -(2**31)])
    count, sequences = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))

    def array(size: int) -> np.ndarray:
        return ints(data.draw(st.lists(value, min_size=size, max_size=size)))

    width = data.draw(st.integers(0, 2))
    plan = {
        "token_ids": array(count),
        "positions": array(count),
        "query_starts": array(sequences + 1),
        "context_lens": array(sequences),
        "block_tables": array(sequences * width).reshape(sequences, width),
        "logit_rows": array(data.draw(st.integers(0, 2))),
    }
    with contextlib.suppress(ValueError):
        assert two_threads.run(**plan).shape == (len(plan["logit_rows"]), VOCAB)


def test_a_plan_needs_a_cache() -> None:
    with pytest.raises(ValueError, match="the cache is not allocated"):
        program(model_graph()).run(**plan_of([1]))


def test_nothing_is_appended_to_a_program_that_ran() -> None:
    compiled = program(model_graph())
    compiled.allocate_cache(8, 16)
    compiled.run(**plan_of([1]))
    with pytest.raises(ValueError, match="cannot grow"):
        compiled.add_rotary([1.0], False, 1.0)


@pytest.mark.parametrize(
    ("blocks", "block_size", "message"),
    [(1, 0, "multiple of 16"), (1, 17, "multiple of 16"), (0, 16, "1 to"), (-1, 16, "1 to"), (2**31, 16, "1 to")],
)
def test_a_bad_cache_is_refused(blocks: int, block_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        program(model_graph()).allocate_cache(blocks, block_size)


def test_a_huge_cache_is_refused() -> None:
    with pytest.raises(MemoryError):
        program(model_graph()).allocate_cache(2**31 - 1, 1 << 16)


def small_program() -> _native.Program:
    """Values 0..5: 8, 8, 4, 8, 8 (with value 4's buffer shared with 0) columns, and the logits."""
    return _native.Program(1, [(0, 8), (1, 8), (2, 4), (3, 8), (0, 8), (-1, 5)], "f32", [(1, 4)])


def table(rows: int, columns: int) -> np.ndarray:
    return np.ones((rows, columns), np.float32).view(np.uint8)


def embedded(*values: int) -> _native.Program:
    built = small_program()
    for value in values:
        built.embed(value, 0, table(3, [8, 8, 4, 8, 8, 5][value]), 1.0)
    return built


ONES = np.ones(8, np.float32)
BAD_CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: _native.Program(0, [], "f32", []), "threads must be"),
    (lambda: _native.Program(1, [], "f64", []), "cache_dtype must be one of f32, f16, bf16, q8_0, got f64"),
    (lambda: _native.Program(1, [(5, 1)], "f32", []), "cannot have"),
    (lambda: _native.Program(1, [(0, 0)], "f32", []), "cannot have"),
    (lambda: _native.Program(1, [], "f32", [(0, 64)]), "cache layer needs"),
    (lambda: small_program().embed(0, 0, table(3, 7), 1.0), "28 bytes are not a row of 8 columns of F32"),
    (lambda: small_program().embed(0, 99, table(3, 8), 1.0), "type 99 is not a format of weights"),
    (lambda: small_program().embed(9, 0, table(3, 8), 1.0), "there is no value 9"),
    (lambda: small_program().embed(-1, 0, table(3, 8), 1.0), "there is no value -1"),
    (lambda: small_program().embed(0, 0, table(0, 8), 1.0), "table is empty"),
    (lambda: embedded(0, 0), "value 0 is written twice"),
    (lambda: small_program().scale(0, 1, 1.0), "value 0 is read before it is written"),
    (lambda: embedded(0, 4).scale(0, 1, 1.0), "value 0 is read before it is written"),
    (lambda: embedded(0).scale(0, 2, 1.0), "value 2 has 4 columns, the operation gives it 8"),
    (lambda: embedded(0, 2).add(0, 2, 1), "differ in shape"),
    (lambda: embedded(0, 2).act_mul(0, 2, 1, "silu"), "differ in shape"),
    (lambda: embedded(0, 1).act_mul(0, 1, 3, "relu"), "act must be one of silu, gelu_tanh, gelu, got relu"),
    (lambda: embedded(0).rms_norm(0, 1, ONES, 1e-5, 3), "not groups of 3"),
    (lambda: embedded(0).rms_norm(0, 1, ONES, 1e-5, 4), "got 8 weights for 4 columns"),
    (lambda: embedded(0).rope(0, 1, 0, 4), "no rotary embedding 0"),
    (lambda: embedded(0).linear(0, []), "no matrices"),
    (lambda: embedded(0).linear(0, [(1, 0, None)]), "no matrix 0"),
    (lambda: embedded(0).attention(0, 0, 0, 1, 1, 2, 1.0, 0, 0.0), "no layer 1"),
    (lambda: embedded(0).attention(0, 0, 0, 1, 0, 2, 1.0, 0, 0.0), "q, k and v have 8, 8 and 8 columns"),
    (lambda: embedded(0, 2).attention(0, 2, 2, 1, 0, 2, 1.0, 0, 0.0, ONES), "8 sinks for 2 heads"),
    (lambda: embedded(0, 2).attention(0, 2, 2, 1, 0, 0, 1.0, 0, 0.0), "0 heads cannot share 1"),
    (lambda: embedded(0, 2).attention(0, 2, 2, 1, 0, 2, 1.0, -1, 0.0), "a setting is invalid"),
    (lambda: embedded(0).select(0, 4), "share a buffer"),
    (lambda: embedded(0).logits(0, 0, 0.0, 1.0), "must come after select"),
    (lambda: small_program().add_matrices(0, 8, table(3, 7)[None]), "28 bytes are not a row of 8"),
    (lambda: small_program().add_matrices(0, 8, table(0, 8)[None]), "needs rows and columns"),
    (lambda: small_program().add_matrices(0, 4, table(3, 8)[None, :, :16]), "one after another"),
    (lambda: small_program().add_rotary([], False, 1.0), "at least one frequency"),
    (lambda: embedded(0).run(**plan_of([1])), "no logits operation, nor an output"),
    (lambda: (p := small_program()).input(0) or p.input(1), "input: there is one already"),
    (lambda: (p := embedded(0)).select(0, 1) or p.output(1), "output: must come before select"),
    (lambda: (p := embedded(0)).output(0) or p.output(0), "output: the program has its result already"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_misshapen_tensor_is_named() -> None:
    graph, checkpoint = model_graph()
    checkpoint.add("1.o.weight", 256, 128)
    with pytest.raises(ModelError, match=r"random: tensor 1.o.weight has shape \[256, 128\], expected \[256, 256\]"):
        compile_program(graph, checkpoint, 1, "f32")


def test_a_missing_part_of_a_tensor_is_named() -> None:
    graph, checkpoint = model_graph()
    checkpoint.add("1.gate_up.weight", 800, 256)
    with pytest.raises(ModelError, match=r"has shape \[800, 256\], expected \[512, 256\] in rows 512 to 1024"):
        compile_program(graph, checkpoint, 1, "f32")


def test_a_format_that_does_not_compute_is_named() -> None:
    graph, checkpoint = model_graph()
    checkpoint.add("1.o.weight", 256, 256, format=Format.I8)
    with pytest.raises(ModelError, match=r"1\.o\.weight is in format I8, in which weights do not compute; F32, F16"):
        compile_program(graph, checkpoint, 1, "f32")


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    graph, checkpoint = model_graph()
    compile_program(graph, checkpoint, 1, "f32", lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0


def test_parts_of_a_bias() -> None:
    """A stacked tensor's bias is cut like its rows."""
    graph, checkpoint = model_graph()
    checkpoint.add("0.gate_up.bias", 1024)
    for i, op in enumerate(graph.ops):
        if op.weights and op.weights[0].name == "0.gate_up.weight":
            part = op.weights[0]
            bias = Weight("0.gate_up.bias", (512,), part.start, part.stop)
            graph.ops[i] = type(op)(op.kind, op.inputs, op.outputs, op.weights, {"bias": (bias,)})
    tokens = random_tokens(5)
    expected = reference.run(graph, reference.Weights(checkpoint), tokens)
    assert np.abs(logits(program((graph, checkpoint)), tokens) - expected).max() < 1e-4
