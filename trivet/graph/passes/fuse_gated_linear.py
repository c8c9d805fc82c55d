"""Multiply by two matrices and gate one product with the other in one operation."""

from __future__ import annotations

from collections import Counter

from trivet.graph.ops import Graph, Op


def fuse_gated_linear(graph: Graph) -> Graph:
    """A `linear` whose two outputs are nothing but the inputs of an `act_mul` becomes a `gated_linear`."""
    uses = Counter(value for op in graph.ops for value in op.inputs)
    gates = {op.inputs: op for op in graph.ops if op.kind == "act_mul"}
    fused = {
        op.outputs: gates[op.outputs]
        for op in graph.ops
        if op.kind == "linear" and op.outputs in gates and all(uses[value] == 1 for value in op.outputs)
    }
    gone = {gate.outputs for gate in fused.values()}
    ops = []
    for op in graph.ops:
        if gate := fused.get(op.outputs):
            ops.append(Op("gated_linear", op.inputs, gate.outputs, op.weights, {**op.attrs, **gate.attrs}))
        elif op.outputs not in gone:
            ops.append(op)
    return Graph(ops, graph.widths, graph.rotaries, graph.cache)
