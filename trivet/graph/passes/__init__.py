"""Transformations of a graph that keep what it computes, as plain functions Graph -> Graph."""

from trivet.graph.ops import Graph
from trivet.graph.passes.fuse_add_norm import fuse_add_norm
from trivet.graph.passes.fuse_linears import fuse_linears

__all__ = ["fuse", "fuse_add_norm", "fuse_linears"]


def fuse(graph: Graph) -> Graph:
    """All that every runtime gains by."""
    return fuse_add_norm(fuse_linears(graph))
