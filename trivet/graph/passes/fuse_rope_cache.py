"""Rotate queries and keys, and write keys and values to the cache, in one operation."""

from __future__ import annotations

from collections import Counter

from trivet.graph.ops import Graph, Op


def fuse_rope_cache(graph: Graph) -> Graph:
    """An attention whose query and key are nothing but rotated values, by one rotary, becomes a `rope_cache` and an
    attention that only reads the cache.
    """
    makers = {output: op for op in graph.ops for output in op.outputs}
    uses = Counter(value for op in graph.ops for value in op.inputs)
    ropes: dict[int, tuple[Op, Op]] = {}
    for op in graph.ops:
        if op.kind != "attention":
            continue
        q, k = (makers[value] for value in op.inputs[:2])
        same = q.kind == k.kind == "rope" and q.attrs == k.attrs and q.attrs["head_dim"] == op.attrs["head_dim"]
        if same and q is not k and uses[q.outputs[0]] == uses[k.outputs[0]] == 1:
            ropes[op.outputs[0]] = q, k
    gone = {rope.outputs for pair in ropes.values() for rope in pair}
    ops = []
    for op in graph.ops:
        if pair := ropes.get(op.outputs[0]):
            q, k = pair
            inputs = (*q.inputs, *k.inputs, op.inputs[2])
            ops.append(Op("rope_cache", inputs, q.outputs, attrs={**q.attrs, "layer": op.attrs["layer"]}))
            ops.append(Op("attention", q.outputs, op.outputs, op.weights, op.attrs))
        elif op.outputs not in gone:
            ops.append(op)
    return Graph(ops, graph.widths, graph.rotaries, graph.cache)
