"""From a graph and the weights that it names to a native program."""

from __future__ import annotations

import numpy as np

from trivet import _native
from trivet.graph.buffers import assign_buffers
from trivet.graph.ops import Graph, Op, Weight
from trivet.graph.passes import fuse_feed_forward
from trivet.runtime.weights import Progress, WeightReader
from trivet.weights.formats import Format
from trivet.weights.mapped import mapping, release_pages
from trivet.weights.tensor import Checkpoint


def compile_program(
    graph: Graph,
    checkpoint: Checkpoint,
    threads: int,
    cache_dtype: str,
    progress: Progress | None = None,
    numerics: str = "exact",
    mlock: bool = False,
) -> _native.Program:
    """Raises ModelError when a weight is missing, of another shape than the graph's or of a format that does not
    compute. `mlock`: all weights are to be in memory.
    """
    return _Compiler(graph, checkpoint, threads, cache_dtype, progress, numerics, mlock).compile()


class _Compiler:
    """One method for each kind of operation, of the same name."""

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        threads: int,
        cache_dtype: str,
        progress: Progress | None,
        numerics: str,
        mlock: bool,
    ) -> None:
        self.mlock = mlock
        self.graph = graph = fuse_feed_forward(graph)
        self.reader = WeightReader(graph, checkpoint, progress)
        self.matrices: dict[Weight, int] = {}
        slots = list(zip(assign_buffers(graph), graph.widths, strict=True))
        layers = [(layer.kv_heads, layer.head_dim) for layer in graph.cache]
        self.program = _native.Program(threads, slots, cache_dtype, layers, numerics)

    def compile(self) -> _native.Program:
        for rotary in self.graph.rotaries:
            self.program.add_rotary(rotary.inv_freq, rotary.interleaved, rotary.magnitude)
        for op in self.graph.ops:
            getattr(self, op.kind)(op)
        return self.program

    def input(self, op: Op) -> None:
        self.program.input(op.outputs[0])

    def output(self, op: Op) -> None:
        self.program.output(op.inputs[0])

    def embed(self, op: Op) -> None:
        tensor = self.reader.tensor(op.weights[0])
        scales = self.reader.scales(op.weights[0])
        factor = op.attrs.get("scale", 1.0) * (1.0 if scales is None else float(scales[0]))
        # A table that is the output's matrix as well is in memory once, packed, and that is enough.
        tied = any(op.weights[0] in other.weights for other in self.graph.ops if other is not op)
        found = mapping(tensor.data) if tied and not self.mlock else None
        place = (-1, 0) if found is None else (found[0].descriptor, found[1])
        self.program.embed(op.outputs[0], tensor.info.format.type_id, tensor.data, factor, *place)

    def rms_norm(self, op: Op) -> None:
        weight = self.reader.floats(op.weights[0])
        self.program.rms_norm(op.inputs[0], op.outputs[0], weight, op.attrs["eps"], op.attrs.get("group", 0))

    def add_rms_norm(self, op: Op) -> None:
        (a, b), (total, output) = op.inputs, op.outputs
        self.program.add_rms_norm(a, b, total, output, self.reader.floats(op.weights[0]), op.attrs["eps"])

    def linear(self, op: Op) -> None:
        biases = op.attrs.get("bias") or (None,) * len(op.weights)
        self.program.linear(
            op.inputs[0],
            [
                (output, self.matrix(weight), None if bias is None else self.reader.floats(bias))
                for output, weight, bias in zip(op.outputs, op.weights, biases, strict=True)
            ],
        )

    def rope(self, op: Op) -> None:
        self.program.rope(op.inputs[0], op.outputs[0], op.attrs["rotary"], op.attrs["head_dim"])

    def attention(self, op: Op) -> None:
        settings = {name: op.attrs[name] for name in ("layer", "heads", "scale", "window", "softcap")}
        sinks = self.reader.floats(op.weights[0]) if op.weights else None
        q, k, v = op.inputs
        self.program.attention(q, k, v, op.outputs[0], **settings, sinks=sinks)

    def act_mul(self, op: Op) -> None:
        gate, up = op.inputs
        self.program.act_mul(gate, up, op.outputs[0], op.attrs["act"])

    def feed_forward(self, op: Op) -> None:
        biases = op.attrs.get("bias") or (None,) * 3
        gate, up, down = (
            (self.matrix(weight), None if bias is None else self.reader.floats(bias))
            for weight, bias in zip(op.weights, biases, strict=True)
        )
        self.program.feed_forward(op.inputs[0], op.outputs[0], gate, up, down, op.attrs["act"])

    def add(self, op: Op) -> None:
        a, b = op.inputs
        self.program.add(a, b, op.outputs[0])

    def scale(self, op: Op) -> None:
        self.program.scale(op.inputs[0], op.outputs[0], op.attrs["factor"])

    def moe(self, op: Op) -> None:
        router, gate, up, down = op.weights
        # The choice of experts is taken in float32, whatever the router is stored in.
        rows = self.reader.floats(router).reshape(router.shape)
        index = self.program.add_matrices(Format.F32.type_id, rows.shape[1], rows.view(np.uint8)[None])
        settings = {name: op.attrs[name] for name in ("top_k", "act", "normalize", "scale")}
        self.program.moe(
            op.inputs[0],
            op.outputs[0],
            router=index,
            gate=self.matrix(gate),
            up=self.matrix(up),
            down=self.matrix(down),
            **settings,
        )

    def select(self, op: Op) -> None:
        self.program.select(op.inputs[0], op.outputs[0])

    def logits(self, op: Op) -> None:
        self.program.logits(op.inputs[0], self.matrix(op.weights[0]), op.attrs["softcap"], op.attrs["scale"])

    def matrix(self, weight: Weight) -> int:
        """The index of the repacked matrix, or of the stack of them."""
        if weight not in self.matrices:
            tensor = self.reader.tensor(weight)
            stack = tensor.data if tensor.data.ndim == 3 else tensor.data[None]
            self.matrices[weight] = self.program.add_matrices(
                tensor.info.format.type_id,
                weight.shape[-1],
                stack,
                self.reader.scales(weight),
                mapped=mapping(stack) is not None,
            )
            release_pages(tensor.data)  # those that two parts of it share
            self.reader.report(tensor)
        return self.matrices[weight]
