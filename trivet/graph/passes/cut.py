"""Divide a model between two runtimes."""

from __future__ import annotations

from dataclasses import replace

from trivet.graph.ops import Graph, Op


def cut(graph: Graph, layer: int) -> tuple[Graph, Graph]:
    """The layers before `layer` (1 to the last) as one graph and those from it on as another, with the logits.

    The first ends in an `output` of the value that the `input` of the second begins with: the residual stream. It is
    found as the last place before the attention of `layer` where a single value is needed further on, so other passes
    come after this one.
    """
    if not 0 < layer < len(graph.cache):
        raise ValueError(f"a graph of {len(graph.cache)} layers cannot be cut before layer {layer}")
    place, value = _place(graph.ops, layer)
    result = len(graph.widths)
    first = [*graph.ops[:place], Op("output", (value,), (result,))]
    second = [Op("input", (), (value,)), *(_moved(op, layer) for op in graph.ops[place:])]
    return (
        Graph(first, [*graph.widths, graph.widths[value]], graph.rotaries, graph.cache[:layer]),
        Graph(second, graph.widths, graph.rotaries, graph.cache[layer:]),
    )


def _place(ops: list[Op], layer: int) -> tuple[int, int]:
    """The index of the first operation after the cut, and the value that crosses it."""
    attention = next(i for i, op in enumerate(ops) if op.kind == "attention" and op.attrs["layer"] == layer)
    for place in range(attention, 0, -1):
        if ops[place - 1].kind == "attention":
            break
        made = {value for op in ops[:place] for value in op.outputs}
        crossing = made.intersection(value for op in ops[place:] for value in op.inputs)
        if len(crossing) == 1:
            return place, crossing.pop()
    raise ValueError(f"no single value leads to layer {layer}")


def _moved(op: Op, layers: int) -> Op:
    if op.kind != "attention":
        return op
    return replace(op, attrs={**op.attrs, "layer": op.attrs["layer"] - layers})
