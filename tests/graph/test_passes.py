"""Passes keep what a graph computes; buffers never hold two values that are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests import reference
from tests.native.harness import logits, model_graph, program, random_tokens
from trivet.graph.buffers import assign_buffers
from trivet.graph.ops import CacheLayer, Graph, Op
from trivet.graph.passes import (
    cut,
    fuse_add_norm,
    fuse_feed_forward,
    fuse_gated_linear,
    fuse_linears,
    fuse_rope_cache,
    hoist_select,
    optimize,
)

PASSES = [fuse_linears, fuse_add_norm, fuse_feed_forward, hoist_select, optimize]


@pytest.mark.parametrize("transform", PASSES)
@pytest.mark.parametrize("experts", [0, 4])
def test_results_are_identical(transform: Callable[[Graph], Graph], experts: int) -> None:
    graph, checkpoint = model_graph(experts=experts)
    tokens = random_tokens(20)
    weights = reference.Weights(checkpoint)
    changed = transform(graph)
    for rows in ([0, 7, 19], range(20)):
        expected = reference.run(graph, weights, tokens, rows)
        assert np.allclose(reference.run(changed, weights, tokens, rows), expected, rtol=1e-9, atol=1e-12)
    run = [logits(program((g, checkpoint), optimized=False), tokens) for g in (graph, changed)]
    assert (run[0] == run[1]).all()


def kinds(graph: Graph) -> dict[str, int]:
    return {kind: sum(op.kind == kind for op in graph.ops) for kind in ("linear", "add", "rms_norm", "add_rms_norm")}


def test_what_is_fused() -> None:
    graph, _ = model_graph()
    assert kinds(graph) == {"linear": 14, "add": 4, "rms_norm": 7, "add_rms_norm": 0}
    assert kinds(fuse_linears(graph))["linear"] == 8
    assert kinds(fuse_add_norm(graph)) == {"linear": 14, "add": 1, "rms_norm": 4, "add_rms_norm": 3}
    assert kinds(optimize(graph)) == {"linear": 8, "add": 0, "rms_norm": 3, "add_rms_norm": 4}


def test_rope_and_cache_are_one_where_all_of_q_and_k_is_rotated_alike() -> None:
    graph, _ = model_graph()
    fused = fuse_rope_cache(graph)
    kept = [op for op in graph.ops if op.kind not in ("rope", "attention")]
    assert [op for op in fused.ops if op.kind not in ("rope_cache", "attention")] == kept
    for layer in range(2):
        q, k = (op for op in graph.ops if op.kind == "rope" and op.attrs["rotary"] == layer)
        attention = next(op for op in graph.ops if op.kind == "attention" and op.attrs["layer"] == layer)
        index = next(i for i, op in enumerate(fused.ops) if op.outputs == attention.outputs)
        before, after = fused.ops[index - 1 : index + 1]
        assert before.inputs == (*q.inputs, *k.inputs, attention.inputs[2]) and before.outputs == after.inputs
        assert before.kind == "rope_cache" and before.attrs == {**q.attrs, "layer": layer}
        assert (after.kind, after.attrs) == ("attention", attention.attrs)


@pytest.mark.parametrize("change", ["rotary", "use", "none"])
def test_rope_and_cache_stay_apart_where_they_differ(change: str) -> None:
    graph, _ = model_graph()
    ops = list(graph.ops)
    at = next(i for i, op in enumerate(ops) if op.kind == "rope" and op.outputs[0] in _keys(graph))
    if change == "rotary":
        ops[at] = replace(ops[at], attrs={**ops[at].attrs, "rotary": 1})
    elif change == "use":
        ops.append(Op("scale", ops[at].outputs, (len(graph.widths),), (), {"factor": 2.0}))
    kinds = [op.kind for op in fuse_rope_cache(replace(graph, ops=ops)).ops]
    assert kinds.count("rope_cache") == (2 if change == "none" else 1) and kinds.count("attention") == 2
    assert kinds.count("rope") == (0 if change == "none" else 2)


@pytest.mark.parametrize("change", ["use", "none"])
def test_products_are_gated_at_once_where_nothing_else_reads_them(change: str) -> None:
    graph = fuse_linears(model_graph()[0])
    gates = [op for op in graph.ops if op.kind == "act_mul"]
    makers = [next(op for op in graph.ops if op.outputs == gate.inputs) for gate in gates]
    ops = list(graph.ops)
    if change == "use":
        ops.append(Op("scale", gates[0].inputs[1:], (len(graph.widths),), (), {"factor": 2.0}))
    fused = fuse_gated_linear(replace(graph, ops=ops)).ops
    for gate, linear in list(zip(gates, makers, strict=True))[change == "use" :]:
        op = next(op for op in fused if op.outputs == gate.outputs)
        assert (op.kind, op.inputs, op.weights) == ("gated_linear", linear.inputs, linear.weights)
        assert op.attrs == {**linear.attrs, **gate.attrs} and linear not in fused and gate not in fused
    if change == "use":
        assert gates[0] in fused and makers[0] in fused


@pytest.mark.parametrize(("read", "left"), [(None, 0), ("act_mul", 1), ("linear", 1)])
def test_a_network_whose_inner_values_are_read_elsewhere_stays_as_it_is(read: str | None, left: int) -> None:
    graph = fuse_linears(model_graph()[0])
    ops = list(graph.ops)
    gate = next(op for op in ops if op.kind == "act_mul")
    if read is not None:
        value = gate.outputs[0] if read == "act_mul" else gate.inputs[1]
        ops.insert(ops.index(gate) + 1, Op("scale", (value,), (len(graph.widths),), (), {"factor": 2.0}))
    fused = [op.kind for op in fuse_feed_forward(replace(graph, ops=ops)).ops]
    assert fused.count("feed_forward") == 2 - left and fused.count("act_mul") == left
    assert fused.count("linear") == 8 - 2 * (2 - left)


def _keys(graph: Graph) -> set[int]:
    return {op.inputs[1] for op in graph.ops if op.kind == "attention"}


def test_select_goes_before_all_that_follows_the_last_attention() -> None:
    graph, _ = model_graph()
    names = [op.kind for op in hoist_select(graph).ops]
    last = len(names) - names[::-1].index("attention")
    assert names[last : last + 2] == ["select", "select"] and names.count("select") == 2
    assert sorted(names[last + 2 :]) == sorted(
        ["linear"] * 4 + ["add"] * 2 + ["rms_norm"] * 2 + ["act_mul", "scale", "logits"]
    )


def test_select_without_anything_to_hoist_over() -> None:
    ops = [Op("embed", (), (0,)), Op("select", (0,), (1,)), Op("logits", (1,), (2,))]
    hoisted = hoist_select(Graph(ops, widths=[8, 8, 5])).ops
    assert [op.kind for op in hoisted] == ["embed", "select", "logits"]
    assert hoisted[1].inputs == (0,) and hoisted[2].inputs == hoisted[1].outputs
    assert hoist_select(graph := Graph(ops[:1], widths=[8])) is graph


def test_a_norm_of_groups_is_left_alone() -> None:
    graph = Graph(
        [Op("add", (0, 1), (2,)), Op("rms_norm", (2,), (3,), attrs={"eps": 1e-5, "group": 4})], widths=[8, 8, 8, 8]
    )
    assert fuse_add_norm(graph).ops == graph.ops


@pytest.mark.parametrize("transform", [lambda graph: graph, optimize])
@pytest.mark.parametrize("experts", [0, 4])
def test_no_two_needed_values_share_a_buffer(transform: Callable[[Graph], Graph], experts: int) -> None:
    graph = transform(model_graph(experts=experts)[0])
    buffers = assign_buffers(graph)
    assert len(set(buffers)) < len(buffers) / 4
    held: dict[int, int] = {}
    for op in graph.ops:
        for value in op.inputs:
            assert held[buffers[value]] == value, f"{op.kind} reads a value that was overwritten"
        if op.kind == "logits":
            assert buffers[op.outputs[0]] == -1
            continue
        assert len({buffers[value] for value in op.outputs}) == len(op.outputs)
        if op.kind == "select":
            assert not {buffers[value] for value in op.outputs} & {buffers[value] for value in op.inputs}
        held |= {buffers[value]: value for value in op.outputs}


def test_an_unused_result_has_a_place() -> None:
    ops = [Op("embed", (), (0,)), Op("scale", (0,), (1,)), Op("scale", (0,), (2,)), Op("logits", (2,), (3,))]
    buffers = assign_buffers(Graph(ops, widths=[8, 8, 8, 5]))
    assert buffers[1] >= 0 and buffers[1] != buffers[0] and buffers[3] == -1
    assert np.array_equal(sorted(set(buffers)), [-1, 0, 1])


def crossing(first: Graph, second: Graph) -> tuple[int, int]:
    """The value that leaves the one and that with which the other begins."""
    assert [op.kind for op in first.ops].count("output") == [op.kind for op in second.ops].count("input") == 1
    return first.ops[-1].inputs[0], second.ops[0].outputs[0]


@pytest.mark.parametrize("transform", [lambda graph: graph, optimize])
@pytest.mark.parametrize("experts", [0, 4])
def test_two_parts_compute_what_the_whole_does(transform: Callable[[Graph], Graph], experts: int) -> None:
    graph, checkpoint = model_graph(experts=experts)
    first, second = cut(graph, 1)
    residual, value = crossing(first, second)
    assert residual == value == next(op.outputs[0] for op in reversed(first.ops) if op.kind == "add")
    assert [op.kind for op in second.ops[:2]] == ["input", "rms_norm"]
    assert (len(first.cache), len(second.cache)) == (1, 1)
    tokens, weights = random_tokens(20), reference.Weights(checkpoint)
    for rows in ([0, 7, 19], range(20)):
        hidden = reference.run(transform(first), weights, tokens)
        got = reference.run(transform(second), weights, tokens, rows, hidden=hidden)
        assert np.allclose(got, reference.run(graph, weights, tokens, rows), rtol=1e-9, atol=1e-12)


def test_the_cut_is_where_one_value_is_needed_further_on() -> None:
    """Without a feed-forward part a layer ends in the sum after its attention, and the next begins with its norm."""
    ops = [Op("embed", (), (0,))]
    for layer, x in enumerate((0, 3)):
        ops += [Op("rms_norm", (x,), (x + 1,)), Op("attention", (x + 1,) * 3, (x + 2,), attrs={"layer": layer})]
        ops.append(Op("add", (x, x + 2), (x + 3,)))
    graph = Graph([*ops, Op("select", (6,), (7,)), Op("logits", (7,), (8,))], [8] * 9, [], [CacheLayer(1, 8)] * 2)
    first, second = cut(graph, 1)
    assert [op.kind for op in first.ops] == ["embed", "rms_norm", "attention", "add", "output"]
    assert crossing(first, second) == (3, 3)
    assert [op.attrs["layer"] for op in (*first.ops, *second.ops) if op.kind == "attention"] == [0, 0]
    for layer in (0, 2, -1):
        with pytest.raises(ValueError, match=f"2 layers cannot be cut before layer {layer}"):
            cut(graph, layer)
    graph.ops[-3] = Op("add", (1, 5), (6,))
    with pytest.raises(ValueError, match="no single value leads to layer 1"):
        cut(graph, 1)
