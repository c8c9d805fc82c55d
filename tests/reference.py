"""The meaning of a graph, in numpy: the operations of `trivet/graph/ops.py` on one sequence, no cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.blocks import dequantize
from trivet.graph.ops import Graph, Op, Rotary, Weight
from trivet.weights.tensor import Checkpoint

Array = np.ndarray


class Weights(Mapping[str, Array]):
    """A checkpoint's tensors as float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.cache: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self.cache:
            tensor = self.checkpoint.load(name)
            data = np.asarray(tensor.data).reshape(*tensor.info.shape[:-1], -1).view(np.uint8)
            values = dequantize(tensor.info.format, data).reshape(tensor.info.shape)
            if (factor := name.removesuffix(".weight") + ".scale") in self.checkpoint.tensors:
                values = values * self[factor].reshape(-1, *[1] * (values.ndim - 1))
            self.cache[name] = values
        return self.cache[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint.tensors)

    def __len__(self) -> int:
        return len(self.checkpoint.tensors)


def run(
    graph: Graph,
    weights: Mapping[str, Array],
    tokens: Sequence[int],
    rows: Sequence[int] | None = None,
    dtype: Any = np.float64,
    hidden: Array | None = None,
) -> Array:
    """Logits [len(rows), vocabulary] of `tokens` at positions 0, 1, ...; all rows where `rows` is None.

    Of a graph that was cut: its output; `hidden` is its input.
    """
    values: dict[int, Array] = {}
    for op in graph.ops:
        context = Step(graph, weights, np.asarray(tokens), rows, np.dtype(dtype), hidden)
        results = OPS[op.kind](context, op, *(values[i] for i in op.inputs))
        for i, result in zip(op.outputs, results if isinstance(results, list) else [results], strict=True):
            assert result.shape[1] == graph.widths[i], (op.kind, result.shape, graph.widths[i])
            values[i] = result
    return values[graph.ops[-1].outputs[0]]


def greedy(
    graph: Graph, weights: Mapping[str, Array], prompt: Sequence[int], count: int, dtype: Any = np.float64
) -> list[int]:
    """The `count` most likely tokens after `prompt`, lowest id first among equals."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(run(graph, weights, tokens, [len(tokens) - 1], dtype)[0].argmax()))
    return tokens[len(prompt) :]


class Step:
    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        tokens: Array,
        rows: Sequence[int] | None,
        dtype: np.dtype,
        hidden: Array | None,
    ) -> None:
        self.hidden = hidden
        self.graph, self.weights, self.tokens, self.dtype = graph, weights, tokens, dtype
        self.rows = range(len(tokens)) if rows is None else rows

    def load(self, weight: Weight) -> Array:
        tensor = self.weights[weight.name].astype(self.dtype, copy=False)
        part = slice(weight.start, weight.stop)
        tensor = tensor[:, part] if tensor.ndim == 3 else tensor[part]
        assert tensor.shape == weight.shape, (weight, tensor.shape)
        return tensor


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def activation(name: str, x: Array) -> Array:
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert name == "gelu", name
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)).astype(x.dtype))


def softcapped(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x


def input(step: Step, op: Op) -> Array:
    assert step.hidden is not None
    return step.hidden


def output(step: Step, op: Op, x: Array) -> Array:
    return x


def embed(step: Step, op: Op) -> Array:
    return step.load(op.weights[0])[step.tokens] * step.dtype.type(op.attrs["scale"])


def rms_norm(step: Step, op: Op, x: Array) -> Array:
    grouped = x.reshape(len(x), -1, op.attrs.get("group") or x.shape[1])
    mean_square = (grouped**2).mean(-1, keepdims=True)
    normed = grouped / np.sqrt(mean_square + step.dtype.type(op.attrs["eps"])) * step.load(op.weights[0])
    return normed.reshape(x.shape)


def add_rms_norm(step: Step, op: Op, a: Array, b: Array) -> list[Array]:
    return [a + b, rms_norm(step, op, a + b)]


def linear(step: Step, op: Op, x: Array) -> list[Array]:
    biases = op.attrs.get("bias") or [None] * len(op.weights)
    return [
        x @ step.load(w).T + (0 if bias is None else step.load(bias))
        for w, bias in zip(op.weights, biases, strict=True)
    ]


def rope(step: Step, op: Op, x: Array) -> Array:
    rotary: Rotary = step.graph.rotaries[op.attrs["rotary"]]
    half = len(rotary.inv_freq)
    angles = np.arange(len(x))[:, None, None] * np.array(rotary.inv_freq)
    cos = (np.cos(angles) * rotary.magnitude).astype(step.dtype)
    sin = (np.sin(angles) * rotary.magnitude).astype(step.dtype)
    heads = x.reshape(len(x), -1, op.attrs["head_dim"]).copy()
    pairs = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if rotary.interleaved
        else (slice(0, half), slice(half, 2 * half))
    )
    a, b = heads[..., pairs[0]].copy(), heads[..., pairs[1]].copy()
    heads[..., pairs[0]] = a * cos - b * sin
    heads[..., pairs[1]] = b * cos + a * sin
    return heads.reshape(x.shape)


def attention(step: Step, op: Op, q: Array, k: Array, v: Array) -> Array:
    heads, kv_heads, dim = op.attrs["heads"], op.attrs["kv_heads"], op.attrs["head_dim"]
    length = len(q)
    q, k, v = (x.reshape(length, -1, dim).transpose(1, 0, 2) for x in (q, k, v))
    k, v = (x.repeat(heads // kv_heads, axis=0) for x in (k, v))
    scores = softcapped(q @ k.transpose(0, 2, 1) * step.dtype.type(op.attrs["scale"]), op.attrs["softcap"])
    distance = np.arange(length)[:, None] - np.arange(length)
    window = op.attrs["window"] or length
    scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
    if op.weights:
        sinks = np.broadcast_to(step.load(op.weights[0])[:, None, None], (heads, length, 1))
        probabilities = softmax(np.concatenate([scores, sinks], -1))[..., :-1]
    else:
        probabilities = softmax(scores)
    return (probabilities @ v).transpose(1, 0, 2).reshape(length, heads * dim)


def act_mul(step: Step, op: Op, gate: Array, up: Array) -> Array:
    return activation(op.attrs["act"], gate) * up


def feed_forward(step: Step, op: Op, x: Array) -> Array:
    gate, up, down = (
        lambda rows, w=w, bias=bias: rows @ step.load(w).T + (0 if bias is None else step.load(bias))
        for w, bias in zip(op.weights, op.attrs["bias"], strict=True)
    )
    return down(activation(op.attrs["act"], gate(x)) * up(x))


def add(step: Step, op: Op, a: Array, b: Array) -> Array:
    return a + b


def scale(step: Step, op: Op, x: Array) -> Array:
    return x * step.dtype.type(op.attrs["factor"])


def moe(step: Step, op: Op, x: Array) -> Array:
    router, gate, up, down = (step.load(w) for w in op.weights)
    probabilities = softmax(x @ router.T)
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, : op.attrs["top_k"]]
    shares = np.take_along_axis(probabilities, best, -1)
    if op.attrs["normalize"]:
        shares = shares / shares.sum(-1, keepdims=True)
    y = np.zeros_like(x)
    for row in range(len(x)):
        for expert, share in zip(best[row], shares[row], strict=True):
            hidden = activation(op.attrs["act"], gate[expert] @ x[row]) * (up[expert] @ x[row])
            y[row] += share * (down[expert] @ hidden)
    return y * step.dtype.type(op.attrs["scale"])


def select(step: Step, op: Op, x: Array) -> Array:
    return x[np.asarray(step.rows)]


def logits(step: Step, op: Op, x: Array) -> Array:
    return softcapped(x @ step.load(op.weights[0]).T * step.dtype.type(op.attrs["scale"]), op.attrs["softcap"])


OPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        input,
        embed,
        rms_norm,
        add_rms_norm,
        linear,
        rope,
        attention,
        act_mul,
        feed_forward,
        add,
        scale,
        moe,
        select,
        logits,
        output,
    )
}
