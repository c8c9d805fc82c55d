"""A graph as a list of kernels' calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trivet.graph.ops import Graph, Op, Weight
from trivet.graph.passes import fuse_gated_linear, fuse_rope_cache
from trivet.runtime.cuda.cache import PagedCache
from trivet.runtime.cuda.kernels.activation import act_mul
from trivet.runtime.cuda.kernels.attention import attention
from trivet.runtime.cuda.kernels.embedding import embed
from trivet.runtime.cuda.kernels.gated import gated_linear
from trivet.runtime.cuda.kernels.linear import linear
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.moe import moe
from trivet.runtime.cuda.kernels.norm import add_rms_norm, rms_norm
from trivet.runtime.cuda.kernels.rope import rope, rope_and_cache, write_cache
from trivet.runtime.cuda.step import StepInputs
from trivet.runtime.cuda.weights import DeviceWeights

Kernel = Callable[..., Any]
"""Of the step and the values of an operation's inputs; gives those of its outputs."""


@dataclass(slots=True)
class Call:
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dead: list[int]
    """Values that nothing after it reads."""


class Program:
    """Runs a graph's operations over device values, which live as long as they are read.

    `cache` is set before the first run, and may be replaced. Raises ModelError when weights do not fit the graph.
    """

    cache: PagedCache

    def __init__(self, graph: Graph, weights: DeviceWeights, dtype: torch.dtype, numerics: str) -> None:
        """One method for each kind of operation, of the same name, gives its kernel."""
        graph = fuse_gated_linear(fuse_rope_cache(graph))
        self._graph = graph
        self._weights = weights
        self._dtype = dtype
        self._numerics = numerics
        self._rotaries = [
            (weights.values(np.array(rotary.inv_freq), torch.float64), rotary.interleaved, rotary.magnitude)
            for rotary in graph.rotaries
        ]
        last = {value: index for index, op in enumerate(graph.ops) for value in (*op.outputs, *op.inputs)}
        calls = []
        for index, op in enumerate(graph.ops):
            dead = [value for value in dict.fromkeys((*op.inputs, *op.outputs)) if last[value] == index]
            calls.append(Call(getattr(self, f"_{op.kind}")(op), op.inputs, op.outputs, dead))
        self._result = graph.ops[-1].outputs[0]
        calls[-1].dead.remove(self._result)
        head = next(index for index, op in enumerate(graph.ops) if op.kind == "select")
        self._body, self._head = calls[:head], calls[head:]

    def close(self) -> None:
        """Let go of weights and cache at once: calls hold their program, which holds them."""
        vars(self).clear()

    def run(self, step: StepInputs) -> torch.Tensor | None:
        """Logits [R, V] float32 of the rows that need them; None where none does."""
        values: dict[int, torch.Tensor] = {}
        self._run(self._body, step, values)
        if not len(step.logit_rows):
            return None
        self._run(self._head, step, values)
        return values[self._result]

    def _run(self, calls: list[Call], step: StepInputs, values: dict[int, torch.Tensor]) -> None:
        for call in calls:
            results = call.kernel(step, *(values[value] for value in call.inputs))
            values.update(zip(call.outputs, results, strict=True))
            for value in call.dead:
                del values[value]

    def _input(self, op: Op) -> Kernel:
        return lambda step: (step.hidden,)

    def _embed(self, op: Op) -> Kernel:
        table = self._weights.matrix(op.weights[0])
        scale = op.attrs.get("scale", 1.0)
        return lambda step: (embed(step.token_ids, table, scale, self._dtype),)

    def _rms_norm(self, op: Op) -> Kernel:
        weight, eps, group = self._weights.vector(op.weights[0]), op.attrs["eps"], op.attrs.get("group", 0)
        return lambda step, x: (rms_norm(x, weight, eps, group),)

    def _add_rms_norm(self, op: Op) -> Kernel:
        weight, eps = self._weights.vector(op.weights[0]), op.attrs["eps"]
        return lambda step, a, b: add_rms_norm(a, b, weight, eps)

    def _linear(self, op: Op) -> Kernel:
        """Weights of one storage are one product, whose columns are the outputs."""
        biases = dict(zip(op.weights, op.attrs.get("bias") or (None,) * len(op.weights), strict=True))
        products = [
            (
                self._weights.matrix(*group),
                self._bias(group, [biases[weight] for weight in group]),
                [weight.shape[0] for weight in group],
            )
            for group in self._weights.groups(op.weights)
        ]

        def kernel(step: StepInputs, x: torch.Tensor) -> list[torch.Tensor]:
            outputs: list[torch.Tensor] = []
            for matrix, bias, rows in products:
                outputs += linear(x, matrix, bias, numerics=self._numerics).split(rows, 1)
            return outputs

        return kernel

    def _gated_linear(self, op: Op) -> Kernel:
        gate, up = op.weights
        act = op.attrs["act"]
        matrix = None
        if self._numerics == "exact" and not any(op.attrs.get("bias") or ()):
            matrix = self._weights.gated(gate, up)
        if matrix is not None:
            return lambda step, x: (gated_linear(x, matrix, act),)
        products = self._linear(op)

        def kernel(step: StepInputs, x: torch.Tensor) -> tuple[torch.Tensor]:
            first, second = products(step, x)
            return (act_mul(first, second, act),)

        return kernel

    def _bias(self, weights: tuple[Weight, ...], biases: list[Weight | None]) -> torch.Tensor | None:
        if not any(biases):
            return None
        parts = [
            self._weights.values(np.zeros(weight.shape[0])) if bias is None else self._weights.vector(bias)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return torch.cat(parts)

    def _rope(self, op: Op) -> Kernel:
        freq, interleaved, magnitude = self._rotaries[op.attrs["rotary"]]
        head_dim = op.attrs["head_dim"]
        return lambda step, x: (rope(x, step.positions, freq, interleaved, magnitude, head_dim),)

    def _rope_cache(self, op: Op) -> Kernel:
        freq, interleaved, magnitude = self._rotaries[op.attrs["rotary"]]
        head_dim, layer = op.attrs["head_dim"], op.attrs["layer"]

        def kernel(step: StepInputs, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor]:
            keys, values = self.cache.layers[layer]
            place = step.positions, step.slots
            return (rope_and_cache(q, k, v, *place, freq, interleaved, magnitude, head_dim, keys, values),)

        return kernel

    def _attention(self, op: Op) -> Kernel:
        layer = op.attrs["layer"]
        settings = {name: op.attrs[name] for name in ("heads", "kv_heads", "head_dim", "scale", "window", "softcap")}
        settings["sinks"] = self._weights.vector(op.weights[0]) if op.weights else None

        def kernel(step: StepInputs, q: torch.Tensor, *written: torch.Tensor) -> tuple[torch.Tensor]:
            keys, values = self.cache.layers[layer]
            if written:
                k, v = written
                write_cache(k, v, step.slots, keys, values)
            return (attention(q, keys, values, step, **settings, decode=step.decode),)

        return kernel

    def _act_mul(self, op: Op) -> Kernel:
        return lambda step, gate, up: (act_mul(gate, up, op.attrs["act"]),)

    def _add(self, op: Op) -> Kernel:
        return lambda step, a, b: (a + b,)

    def _scale(self, op: Op) -> Kernel:
        return lambda step, x: (x * op.attrs["factor"],)

    def _moe(self, op: Op) -> Kernel:
        # The choice of experts is taken in float32, whatever the router is stored in.
        router = Matrix(self._weights.vector(op.weights[0]))
        gate, up, down = (self._weights.matrix(weight) for weight in op.weights[1:])
        settings: dict[str, Any] = {name: op.attrs[name] for name in ("top_k", "act", "normalize", "scale")}
        return lambda step, x: (moe(x, router, gate, up, down, **settings),)

    def _select(self, op: Op) -> Kernel:
        return lambda step, x: (x if step.all_rows else x.index_select(0, step.logit_rows),)

    def _logits(self, op: Op) -> Kernel:
        head, softcap, scale = self._weights.matrix(op.weights[0]), op.attrs["softcap"], op.attrs["scale"]

        def kernel(step: StepInputs, x: torch.Tensor) -> tuple[torch.Tensor]:
            logits = linear(x, head, numerics=self._numerics, dtype=torch.float32, out=step.logits)
            if softcap:
                return (logits.mul_(scale / softcap).tanh_().mul_(softcap),)
            return (logits if scale == 1 else logits.mul_(scale),)

        return kernel
