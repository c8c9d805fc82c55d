"""Norm a sum while it is in the cache."""

from __future__ import annotations

from trivet.graph.ops import Graph, Op


def fuse_add_norm(graph: Graph) -> Graph:
    """An add and the first whole-row rms_norm of its result become one add_rms_norm, at the place of the add."""
    norms: dict[int, Op] = {}
    for op in graph.ops:
        if op.kind == "rms_norm" and not op.attrs.get("group"):
            norms.setdefault(op.inputs[0], op)
    fused = {op.outputs[0]: norms[op.outputs[0]] for op in graph.ops if op.kind == "add" and op.outputs[0] in norms}
    gone = {norm.outputs for norm in fused.values()}
    ops = []
    for op in graph.ops:
        norm = fused.get(op.outputs[0])
        if op.kind == "add" and norm is not None:
            ops.append(
                Op("add_rms_norm", op.inputs, op.outputs + norm.outputs, norm.weights, {"eps": norm.attrs["eps"]})
            )
        elif op.outputs not in gone:
            ops.append(op)
    return Graph(ops, graph.widths, graph.rotaries, graph.cache)
