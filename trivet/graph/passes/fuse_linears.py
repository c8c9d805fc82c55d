"""Multiply once by all the matrices that share an input."""

from __future__ import annotations

from collections import defaultdict

from trivet.graph.ops import Graph, Op


def fuse_linears(graph: Graph) -> Graph:
    """Linears of one value (q, k and v; gate and up) become one, at the place of the first.

    The input is then converted once, and threads share the work of all outputs.
    """
    families: dict[int, list[Op]] = defaultdict(list)
    for op in graph.ops:
        if op.kind == "linear":
            families[op.inputs[0]].append(op)
    ops = []
    for op in graph.ops:
        if op.kind != "linear":
            ops.append(op)
        elif op is families[op.inputs[0]][0]:
            ops.append(_joined(families[op.inputs[0]]))
    return Graph(ops, graph.widths, graph.rotaries, graph.cache)


def _joined(linears: list[Op]) -> Op:
    biases = [op.attrs.get("bias") or (None,) * len(op.weights) for op in linears]
    return Op(
        "linear",
        linears[0].inputs,
        tuple(output for op in linears for output in op.outputs),
        tuple(weight for op in linears for weight in op.weights),
        {"bias": tuple(bias for part in biases for bias in part)},
    )
