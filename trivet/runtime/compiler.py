"""From a graph and the weights that it names to a native program."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np

from trivet import _native
from trivet.errors import ModelError
from trivet.graph.buffers import assign_buffers
from trivet.graph.builder import scale_name
from trivet.graph.ops import Graph, Op, Weight
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint, Tensor

Progress = Callable[[int, int], None]
"""Called with the bytes of weights read so far, and of all."""

NOT_WEIGHTS = {Format.Q8_1, Format.Q8_K, Format.I8, Format.I16, Format.I32, Format.I64, Format.F64}
"""Of the formats of a file, those that no matrix or vector of a model is in: activations, indices."""


def compile_program(
    graph: Graph, checkpoint: Checkpoint, threads: int, cache_dtype: str, progress: Progress | None = None
) -> _native.Program:
    """Raises ModelError when a weight is missing, of another shape than the graph's or of a format that does not
    compute.
    """
    return _Compiler(graph, checkpoint, threads, cache_dtype, progress).compile()


class _Compiler:
    """One method for each kind of operation, of the same name."""

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, threads: int, cache_dtype: str, progress: Progress | None
    ) -> None:
        self.graph = graph
        self.checkpoint = checkpoint
        self.progress = progress
        self.matrices: dict[Weight, int] = {}
        weights = {w.name for op in graph.ops for w in op.weights if w.name in checkpoint.tensors}
        self.total = sum(checkpoint.tensors[name].num_bytes for name in weights)
        self.done = 0
        slots = list(zip(assign_buffers(graph), graph.widths, strict=True))
        layers = [(layer.kv_heads, layer.head_dim) for layer in graph.cache]
        self.program = _native.Program(threads, slots, cache_dtype, layers)

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
        tensor = self.tensor(op.weights[0])
        scales = self.scales(op.weights[0])
        factor = op.attrs.get("scale", 1.0) * (1.0 if scales is None else float(scales[0]))
        self.program.embed(op.outputs[0], tensor.info.format.type_id, tensor.data, factor)

    def rms_norm(self, op: Op) -> None:
        weight = self.floats(op.weights[0])
        self.program.rms_norm(op.inputs[0], op.outputs[0], weight, op.attrs["eps"], op.attrs.get("group", 0))

    def add_rms_norm(self, op: Op) -> None:
        (a, b), (total, output) = op.inputs, op.outputs
        self.program.add_rms_norm(a, b, total, output, self.floats(op.weights[0]), op.attrs["eps"])

    def linear(self, op: Op) -> None:
        biases = op.attrs.get("bias") or (None,) * len(op.weights)
        self.program.linear(
            op.inputs[0],
            [
                (output, self.matrix(weight), None if bias is None else self.floats(bias))
                for output, weight, bias in zip(op.outputs, op.weights, biases, strict=True)
            ],
        )

    def rope(self, op: Op) -> None:
        self.program.rope(op.inputs[0], op.outputs[0], op.attrs["rotary"], op.attrs["head_dim"])

    def attention(self, op: Op) -> None:
        settings = {name: op.attrs[name] for name in ("layer", "heads", "scale", "window", "softcap")}
        sinks = self.floats(op.weights[0]) if op.weights else None
        q, k, v = op.inputs
        self.program.attention(q, k, v, op.outputs[0], **settings, sinks=sinks)

    def act_mul(self, op: Op) -> None:
        gate, up = op.inputs
        self.program.act_mul(gate, up, op.outputs[0], op.attrs["act"])

    def add(self, op: Op) -> None:
        a, b = op.inputs
        self.program.add(a, b, op.outputs[0])

    def scale(self, op: Op) -> None:
        self.program.scale(op.inputs[0], op.outputs[0], op.attrs["factor"])

    def moe(self, op: Op) -> None:
        router, gate, up, down = op.weights
        # The choice of experts is taken in float32, whatever the router is stored in.
        rows = self.floats(router).reshape(router.shape)
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

    def tensor(self, weight: Weight) -> Tensor:
        """The rows of `weight`, checked."""
        tensor = self.checkpoint.load(weight.name)
        info = tensor.info
        axis = max(len(info.shape) - 2, 0)
        stop = info.shape[axis] if weight.stop is None else weight.stop
        shape = (*info.shape[:axis], stop - weight.start, *info.shape[axis + 1 :])
        if shape != weight.shape or stop > info.shape[axis]:
            part = "" if weight.stop is None else f" in rows {weight.start} to {weight.stop}"
            raise ModelError(
                f"{self.checkpoint.path}: tensor {weight.name} has shape {list(info.shape)}, "
                f"expected {list(weight.shape)}{part}"
            )
        if info.format in NOT_WEIGHTS:
            names = ", ".join(f.name for f in Format if f not in NOT_WEIGHTS)
            raise ModelError(
                f"{self.checkpoint.path}: tensor {weight.name} is in format {info.format.name}, "
                f"in which weights do not compute; {names} do"
            )
        if weight.stop is None:
            return tensor
        if axis == 0 and len(info.shape) == 1:
            values = _native.dequantize(info.format.type_id, tensor.data.reshape(-1), info.shape[0])
            part_of = values[weight.start : stop].view(np.uint8)
            return Tensor(type(info)(info.name, shape, Format.F32), part_of)
        rows = (slice(None),) * axis + (slice(weight.start, stop),)
        return Tensor(type(info)(info.name, shape, info.format), tensor.data[rows])

    def floats(self, weight: Weight) -> np.ndarray:
        """The values [n] of a vector, or of a matrix row after row."""
        tensor = self.tensor(weight)
        blocks = np.ascontiguousarray(tensor.data).reshape(-1)
        self.report(tensor)
        return _native.dequantize(tensor.info.format.type_id, blocks, int(np.prod(weight.shape)))

    def matrix(self, weight: Weight) -> int:
        """The index of the repacked matrix, or of the stack of them."""
        if weight not in self.matrices:
            tensor = self.tensor(weight)
            stack = tensor.data if tensor.data.ndim == 3 else tensor.data[None]
            self.matrices[weight] = self.program.add_matrices(
                tensor.info.format.type_id, weight.shape[-1], stack, self.scales(weight)
            )
            release_pages(tensor.data)
            self.report(tensor)
        return self.matrices[weight]

    def scales(self, weight: Weight) -> np.ndarray | None:
        """The factor of a matrix, or of each of a stack of them; None for 1."""
        name = scale_name(weight.name)
        return self.floats(Weight(name, weight.shape[:-2] or (1,))) if name in self.checkpoint.tensors else None

    def report(self, tensor: Tensor) -> None:
        self.done += tensor.info.num_bytes
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


def release_pages(array: np.ndarray) -> None:
    """Let the system have back the pages of a mapped file under a contiguous view of it; it reads them anew on
    the next access. Does nothing for other arrays.
    """
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, mmap.mmap) or not array.flags.c_contiguous:
        return
    offset = array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (offset + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        base.madvise(mmap.MADV_DONTNEED, start, stop - start)
