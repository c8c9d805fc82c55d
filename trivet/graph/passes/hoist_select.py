"""Compute what only the selected rows need for the selected rows only."""

from __future__ import annotations

from dataclasses import replace

from trivet.graph.ops import Graph, Op

ROW_WISE = {"rms_norm", "add_rms_norm", "linear", "act_mul", "add", "scale", "moe"}


def hoist_select(graph: Graph) -> Graph:
    """Move `select` before the row-wise operations that lead nowhere else: most of the last layer, of whose rows
    a prompt needs one.
    """
    index = next((i for i, op in enumerate(graph.ops) if op.kind == "select"), len(graph.ops))
    if index == len(graph.ops):
        return graph
    moved: list[Op] = []
    kept: list[Op] = []
    used_elsewhere = {value for op in graph.ops[index + 1 :] for value in op.inputs}
    for op in reversed(graph.ops[:index]):
        if op.kind in ROW_WISE and used_elsewhere.isdisjoint(op.outputs):
            moved.append(op)
        else:
            kept.append(op)
            used_elsewhere.update(op.inputs)

    select = graph.ops[index]
    made = {value for op in moved for value in op.outputs}
    reads = [value for op in (*reversed(moved), select) for value in op.inputs]
    selected = {
        value: len(graph.widths) + i for i, value in enumerate(dict.fromkeys(v for v in reads if v not in made))
    }
    widths = graph.widths + [graph.widths[value] for value in selected]
    source = select.inputs[0]
    renamed = selected | {select.outputs[0]: selected.get(source, source)}
    after = [
        replace(op, inputs=tuple(renamed.get(value, value) for value in op.inputs))
        for op in (*reversed(moved), *graph.ops[index + 1 :])
    ]
    selects = [Op("select", (value,), (copy,)) for value, copy in selected.items()]
    return Graph([*reversed(kept), *selects, *after], widths, graph.rotaries, graph.cache)
