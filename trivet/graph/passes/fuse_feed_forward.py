"""Make a whole gated feed-forward network one operation."""

from __future__ import annotations

from collections import Counter

from trivet.graph.ops import Graph, Op
from trivet.graph.passes.fuse_gated_linear import fuse_gated_linear


def fuse_feed_forward(graph: Graph) -> Graph:
    """A `gated_linear` whose result is nothing but the input of a `linear` of one output becomes a `feed_forward`, at
    the place of the latter; other such pairs of operations stay what they were.
    """
    fused = fuse_gated_linear(graph)
    uses = Counter(value for op in fused.ops for value in op.inputs)
    gates = {op.outputs[0]: op for op in fused.ops if op.kind == "gated_linear" and uses[op.outputs[0]] == 1}
    linears = [op for op in graph.ops if op.kind == "linear" and len(op.outputs) == 1]
    downs = {op.inputs[0]: op for op in linears if op.inputs[0] in gates}
    gone = {op.inputs[0] for op in graph.ops if op.kind == "act_mul" and op.outputs[0] in downs}
    ops = []
    for op in graph.ops:
        if op.kind == "linear" and downs.get(op.inputs[0]) is op:
            gate = gates[op.inputs[0]]
            biases = [o.attrs.get("bias") or (None,) * len(o.weights) for o in (gate, op)]
            attrs = {"act": gate.attrs["act"], "bias": (*biases[0], *biases[1])}
            ops.append(Op("feed_forward", gate.inputs, op.outputs, gate.weights + op.weights, attrs))
        elif not gone.intersection(op.outputs) and not gone.intersection(op.inputs):
            ops.append(op)
    return Graph(ops, graph.widths, graph.rotaries, graph.cache)
