"""Transformations of a graph that keep what it computes, as plain functions Graph -> Graph."""

from trivet.graph.ops import Graph
from trivet.graph.passes.cut import cut
from trivet.graph.passes.fuse_add_norm import fuse_add_norm
from trivet.graph.passes.fuse_feed_forward import fuse_feed_forward
from trivet.graph.passes.fuse_gated_linear import fuse_gated_linear
from trivet.graph.passes.fuse_linears import fuse_linears
from trivet.graph.passes.fuse_rope_cache import fuse_rope_cache
from trivet.graph.passes.hoist_select import hoist_select

__all__ = [
    "cut",
    "fuse_add_norm",
    "fuse_feed_forward",
    "fuse_gated_linear",
    "fuse_linears",
    "fuse_rope_cache",
    "hoist_select",
    "optimize",
]


def optimize(graph: Graph) -> Graph:
    """All that every runtime gains by."""
    return fuse_add_norm(fuse_linears(hoist_select(graph)))
