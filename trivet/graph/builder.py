"""Writes a graph, one operation at a time, checking each weight against what the checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NewType

from trivet.errors import ModelError
from trivet.graph.ops import CacheLayer, Graph, Op, Rotary, Weight
from trivet.weights.tensor import TensorInfo

Value = NewType("Value", int)
"""Index of a value in `Graph.widths`."""


def scale_name(weight: str) -> str:
    """The tensor with the factor of a matrix, or of each of a stack of them, where there is one."""
    return weight.removesuffix(".weight") + ".scale"


class GraphBuilder:
    """Every method but `weight` appends one operation of the table in `graph/ops.py` and returns its result.

    Weights are named without their `.weight`; `linear` adds `.bias` where the checkpoint has one. A tensor
    that is missing or of another shape raises ModelError. `used` collects the names, and those of the `.scale` tensors
    by which a runtime multiplies matrices (see `scale_name`).
    """

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.graph = Graph()
        self.tensors = tensors
        self.used: set[str] = set()

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The tensor `name`, which must have this shape."""
        info = self.tensors.get(name)
        if info is None:
            raise ModelError(f"tensor {name} is missing; expected one of shape {list(shape)}")
        if info.shape != shape:
            raise ModelError(f"tensor {name} has shape {list(info.shape)}, expected {list(shape)}")
        self.used.add(name)
        if (scale := scale_name(name)) in self.tensors:
            self.weight(scale, shape[:-2] or (1,))
            # The range of activations, where these are quantised by a fixed one; the kernels measure each row's.
            self.used.add(scale.removesuffix(".scale") + ".input_scale")
        return Weight(name, shape)

    def embed(self, name: str, vocab_size: int, width: int, scale: float = 1.0) -> Value:
        table = self.weight(f"{name}.weight", (vocab_size, width))
        return self._op("embed", (), width, (table,), scale=scale)

    def rms_norm(self, x: Value, name: str, eps: float, group: int = 0) -> Value:
        """`group` > 0 norms every `group` columns alone, with the same weights (one head at a time)."""
        width = self.graph.widths[x]
        return self._op(
            "rms_norm", (x,), width, (self.weight(f"{name}.weight", (group or width,)),), eps=eps, group=group
        )

    def linear(self, x: Value, name: str, rows: int, bias: bool = False) -> Value:
        """`bias` requires one; else it is added where the checkpoint has it."""
        return self._linears(x, name, [self.weight(f"{name}.weight", (rows, self.graph.widths[x]))], bias)[0]

    def fused_linear(self, x: Value, name: str, rows: Sequence[int], bias: bool = False) -> list[Value]:
        """`linear` with each of the parts, of so many rows each, that are stacked in one tensor."""
        return self._linears(x, name, self._parts(f"{name}.weight", rows, (self.graph.widths[x],)), bias)

    def rope(self, x: Value, rotary: Rotary, head_dim: int) -> Value:
        if rotary not in self.graph.rotaries:
            self.graph.rotaries.append(rotary)
        index = self.graph.rotaries.index(rotary)
        return self._op("rope", (x,), self.graph.widths[x], head_dim=head_dim, rotary=index)

    def attention(
        self, q: Value, k: Value, v: Value, head_dim: int, scale: float, window: int = 0, softcap: float = 0.0
    ) -> Value:
        """Opens the next layer of the cache; head counts follow from the widths of q and k."""
        heads, kv_heads = self.graph.widths[q] // head_dim, self.graph.widths[k] // head_dim
        layer = len(self.graph.cache)
        self.graph.cache.append(CacheLayer(kv_heads, head_dim))
        return self._op(
            "attention",
            (q, k, v),
            heads * head_dim,
            layer=layer,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    def act_mul(self, gate: Value, up: Value, act: str) -> Value:
        return self._op("act_mul", (gate, up), self.graph.widths[gate], act=act)

    def add(self, a: Value, b: Value) -> Value:
        return self._op("add", (a, b), self.graph.widths[a])

    def scale(self, x: Value, factor: float) -> Value:
        return self._op("scale", (x,), self.graph.widths[x], factor=factor)

    def moe(
        self,
        x: Value,
        layer: str,
        experts: int,
        rows: int,
        top_k: int,
        act: str,
        normalize: bool,
        scale: float = 1.0,
    ) -> Value:
        """Experts of `rows` hidden units, stacked in `ffn_{gate,up,down}_exps` (or `ffn_gate_up_exps`)."""
        width = self.graph.widths[x]
        router = self.weight(f"{layer}.ffn_gate_inp.weight", (experts, width))
        fused = f"{layer}.ffn_gate_up_exps.weight"
        if fused in self.tensors:
            gate, up = self._parts(fused, [rows, rows], (width,), (experts,))
        else:
            gate = self.weight(f"{layer}.ffn_gate_exps.weight", (experts, rows, width))
            up = self.weight(f"{layer}.ffn_up_exps.weight", (experts, rows, width))
        down = self.weight(f"{layer}.ffn_down_exps.weight", (experts, width, rows))
        return self._op(
            "moe",
            (x,),
            width,
            (router, gate, up, down),
            top_k=top_k,
            act=act,
            normalize=normalize,
            scale=scale,
        )

    def select(self, x: Value) -> Value:
        return self._op("select", (x,), self.graph.widths[x])

    def logits(self, x: Value, name: str, vocab_size: int, softcap: float = 0.0, scale: float = 1.0) -> Value:
        """`softcap` 0 = none."""
        head = self.weight(f"{name}.weight", (vocab_size, self.graph.widths[x]))
        return self._op("logits", (x,), vocab_size, (head,), softcap=softcap, scale=scale)

    def _linears(self, x: Value, name: str, weights: list[Weight], bias: bool) -> list[Value]:
        biases: Sequence[Weight | None] = [None] * len(weights)
        if bias or f"{name}.bias" in self.tensors:
            biases = self._parts(f"{name}.bias", [w.shape[0] for w in weights])
        return [
            self._op("linear", (x,), w.shape[0], (w,), bias=(part,)) for w, part in zip(weights, biases, strict=True)
        ]

    def _parts(
        self, name: str, rows: Sequence[int], after: tuple[int, ...] = (), before: tuple[int, ...] = ()
    ) -> list[Weight]:
        """Split a tensor of shape [*before, sum of rows, *after]; the whole of it where there is one part."""
        whole = self.weight(name, (*before, sum(rows), *after))
        if len(rows) == 1:
            return [whole]
        starts = [sum(rows[:i]) for i in range(len(rows))]
        return [Weight(name, (*before, r, *after), start, start + r) for start, r in zip(starts, rows, strict=True)]

    def _op(
        self, kind: str, inputs: tuple[Value, ...], width: int, weights: tuple[Weight, ...] = (), **attrs: Any
    ) -> Value:
        output = Value(len(self.graph.widths))
        self.graph.widths.append(width)
        self.graph.ops.append(Op(kind, inputs, (output,), weights, attrs))
        return output
