"""Which values may share memory."""

from __future__ import annotations

from trivet.graph.ops import RESULTS, Graph


def assign_buffers(graph: Graph) -> list[int]:
    """A buffer for every value, such that no two values that are needed at the same time share one.

    A value gets the place of a dead one, of the most similar width; -1 for the result, which leaves. An operation may
    write over inputs that die with it, but for `select`, which moves rows.
    """
    last_use: dict[int, int] = {}
    for i, op in enumerate(graph.ops):
        last_use.update(dict.fromkeys(op.inputs, i))
    buffers = [-1] * len(graph.widths)
    widths: list[int] = []
    free: list[int] = []
    for i, op in enumerate(graph.ops):
        dying = [buffers[value] for value in dict.fromkeys(op.inputs) if last_use[value] == i]
        if op.kind != "select":
            free += dying
        for value in op.outputs:
            if op.kind not in RESULTS:
                buffers[value] = _take(free, widths, graph.widths[value])
        free += [buffers[value] for value in op.outputs if value not in last_use and op.kind not in RESULTS]
        if op.kind == "select":
            free += dying
    return buffers


def _take(free: list[int], widths: list[int], width: int) -> int:
    """The free buffer to grow or waste the least; a new one where none is free."""
    if not free:
        widths.append(width)
        return len(widths) - 1
    best = min(free, key=lambda buffer: (max(width - widths[buffer], 0), widths[buffer]))
    free.remove(best)
    widths[best] = max(widths[best], width)
    return best
