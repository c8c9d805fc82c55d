"""Small graphs with random weights, and a way to run a program on sequences cut into steps, without an engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gguf
import numpy as np

from tests.blocks import BLOCK_FORMATS, dequantize, random_blocks, set_halves
from trivet import _native
from trivet.errors import ModelError
from trivet.graph.builder import GraphBuilder
from trivet.graph.ops import Graph, Rotary, Weight
from trivet.graph.passes import optimize
from trivet.runtime.compiler import compile_program
from trivet.weights.formats import Format
from trivet.weights.tensor import Tensor, TensorInfo

VOCAB = 50


class RandomCheckpoint:
    """Tensors of any format from a seed."""

    path = "random"
    metadata: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.data: dict[str, np.ndarray] = {}
        self.tensors: dict[str, TensorInfo] = {}

    def add(self, name: str, *shape: int, format: Format = Format.F32, scale: float = 1.0) -> None:
        rng = np.random.default_rng([*name.encode()])
        values = scale * rng.standard_normal(shape, np.float32)
        if format in BLOCK_FORMATS:
            self.data[name] = _random_blocks(format, shape, scale, rng)
        elif format is Format.I8:
            self.data[name] = np.zeros(shape, np.uint8)
        else:
            quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType(format.type_id))
            self.data[name] = np.ascontiguousarray(quantized).view(np.uint8)
        self.tensors[name] = TensorInfo(name, shape, format)

    def load(self, name: str) -> Tensor:
        if name not in self.data:
            raise ModelError(f"there is no tensor {name}")
        return Tensor(self.tensors[name], self.data[name])


CENTRE = {Format.Q4_1: -7.5, Format.Q5_1: -15.5, Format.Q2_K: 1.5, Format.Q4_K: 7.5, Format.Q5_K: 15.5}
"""Minimum over scale of blocks whose values have about the mean 0."""


def _random_blocks(format: Format, shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of any blocks, whose values have about this standard deviation."""
    blocks = random_blocks(format, (*shape[:-1], shape[-1] // format.block_size), rng)
    rows = blocks.reshape(*shape[:-1], -1)
    exponent = np.log2(scale)
    if format is Format.MXFP4:
        blocks[..., 0] = 126 + np.rint(exponent)
    elif format is Format.NVFP4:
        blocks[..., :4] = rng.integers(8 * (4.7 + exponent), 8 * (6.7 + exponent), (*blocks.shape[:-1], 4))
    else:
        centre = CENTRE.get(format, 0.0)
        set_halves(format, blocks, 1.0, centre)
        d = scale / np.std(dequantize(format, rows))
        set_halves(format, blocks, d, centre * d)
    return rows


def attention_graph(
    heads: int, kv_heads: int, head_dim: int, window: int = 0, softcap: float = 0.0, sinks: bool = False
) -> tuple[Graph, RandomCheckpoint]:
    """Attention alone: q, k and v are looked up by token, and the logits are its result."""
    checkpoint = RandomCheckpoint()
    width, kv_width = heads * head_dim, kv_heads * head_dim
    for name, columns in (("q", width), ("k", kv_width), ("v", kv_width)):
        checkpoint.add(f"{name}.weight", VOCAB, columns, scale=2.0)
    checkpoint.add("sinks", heads)
    checkpoint.add("eye.weight", width, width)
    checkpoint.data["eye.weight"] = np.eye(width, dtype=np.float32).view(np.uint8)
    b = GraphBuilder(checkpoint.tensors)
    q, k, v = b.embed("q", VOCAB, width), b.embed("k", VOCAB, kv_width), b.embed("v", VOCAB, kv_width)
    y = b.attention(q, k, v, head_dim, head_dim**-0.5, window, softcap)
    if sinks:
        b.graph.ops[-1] = replace(b.graph.ops[-1], weights=(Weight("sinks", (heads,)),))
    b.logits(b.select(y), "eye", width)
    return b.graph, checkpoint


def experts_graph(
    hidden: int, ffn: int, gate: Format, up: Format, down: Format, experts: int = 5
) -> tuple[Graph, RandomCheckpoint]:
    """Experts alone, two for each token: their input is looked up, and the logits are their result. What is chosen
    hangs on float32 alone.
    """
    checkpoint = RandomCheckpoint()
    checkpoint.add("x.weight", VOCAB, hidden)
    checkpoint.add("0.ffn_gate_inp.weight", experts, hidden, scale=hidden**-0.5)
    for name, rows, columns, format in (
        ("gate", ffn, hidden, gate),
        ("up", ffn, hidden, up),
        ("down", hidden, ffn, down),
    ):
        checkpoint.add(f"0.ffn_{name}_exps.weight", experts, rows, columns, format=format, scale=columns**-0.5)
    checkpoint.add("eye.weight", hidden, hidden)
    checkpoint.data["eye.weight"] = np.eye(hidden, dtype=np.float32).view(np.uint8)
    b = GraphBuilder(checkpoint.tensors)
    y = b.moe(b.embed("x", VOCAB, hidden), "0", experts, ffn, 2, "silu", normalize=True, scale=0.7)
    b.logits(b.select(y), "eye", hidden)
    return b.graph, checkpoint


def model_graph(*formats: Format, experts: int = 0) -> tuple[Graph, RandomCheckpoint]:
    """A two-layer decoder with a bit of everything; its matrices take the formats (by default F32) in turn."""
    turns = itertools.cycle(formats or (Format.F32,))
    hidden, ffn, heads, kv_heads, dim = 256, 512, 8, 4, 32
    checkpoint = RandomCheckpoint()
    b = GraphBuilder(checkpoint.tensors)

    def matrix(name: str, *shape: int) -> None:
        checkpoint.add(f"{name}.weight", *shape, format=next(turns), scale=shape[-1] ** -0.5)

    matrix("embd", VOCAB, hidden)
    x = b.embed("embd", VOCAB, hidden, scale=4.0)
    for i in range(2):
        checkpoint.add(f"{i}.norm.weight", hidden)
        checkpoint.add(f"{i}.head_norm.weight", dim)
        checkpoint.add(f"{i}.ffn_norm.weight", hidden)
        checkpoint.add(f"{i}.q.bias", heads * dim)
        for name, rows in (("q", heads * dim), ("k", kv_heads * dim), ("v", kv_heads * dim)):
            matrix(f"{i}.{name}", rows, hidden)
        matrix(f"{i}.o", hidden, heads * dim)
        h = b.rms_norm(x, f"{i}.norm", 1e-6)
        q, k, v = (b.linear(h, f"{i}.{n}", heads * dim if n == "q" else kv_heads * dim) for n in "qkv")
        rotary = Rotary(tuple(10000.0 ** (-j / 12) for j in range(12)), interleaved=i == 0)
        q = b.rope(b.rms_norm(q, f"{i}.head_norm", 1e-6, group=dim), rotary, dim)
        h = b.attention(q, b.rope(k, rotary, dim), v, dim, dim**-0.5, window=20 * i)
        x = b.add(x, b.linear(h, f"{i}.o", hidden))
        h = b.rms_norm(x, f"{i}.ffn_norm", 1e-6)
        if experts:
            checkpoint.add(f"{i}.ffn_gate_inp.weight", experts, hidden, scale=hidden**-0.5)
            matrix(f"{i}.ffn_gate_exps", experts, ffn, hidden)
            matrix(f"{i}.ffn_up_exps", experts, ffn, hidden)
            matrix(f"{i}.ffn_down_exps", experts, hidden, ffn)
            h = b.moe(h, str(i), experts, ffn, 2, "silu", normalize=i == 0, scale=0.7)
        else:
            matrix(f"{i}.gate_up", 2 * ffn, hidden)
            matrix(f"{i}.down", hidden, ffn)
            gate, up = b.fused_linear(h, f"{i}.gate_up", [ffn, ffn])
            h = b.linear(b.act_mul(gate, up, ("silu", "gelu_tanh")[i]), f"{i}.down", hidden)
        x = b.add(b.scale(x, 0.9), h)
    checkpoint.add("norm.weight", hidden)
    b.logits(b.rms_norm(b.select(x), "norm", 1e-6), "embd", VOCAB, softcap=20.0, scale=0.5)
    return b.graph, checkpoint


def program(
    model: tuple[Graph, RandomCheckpoint],
    threads: int = 1,
    cache_dtype: str = "f32",
    optimized: bool = True,
    numerics: str = "exact",
) -> _native.Program:
    graph, checkpoint = model
    graph = optimize(graph) if optimized else graph
    return compile_program(graph, checkpoint, threads, cache_dtype, numerics=numerics)


class Sequences:
    """Feeds a program any cut of some sequences, whose blocks lie scattered over the cache."""

    def __init__(self, program: _native.Program, tokens: Sequence[Sequence[int]], block_size: int = 16) -> None:
        self.program = program
        self.tokens = [list(t) for t in tokens]
        self.done = [0] * len(tokens)
        self.logits: list[list[np.ndarray]] = [[] for _ in tokens]
        width = max(-(-len(t) // block_size) for t in self.tokens)
        order = np.random.default_rng(0).permutation(width * len(tokens)).astype(np.int32)
        self.tables = order.reshape(len(tokens), width)
        program.allocate_cache(order.size, block_size)

    def step(self, counts: Mapping[int, int]) -> None:
        """Bring so many more tokens of these sequences; keeps the logits of all."""
        tokens: list[int] = []
        positions: list[int] = []
        starts, lengths = [0], []
        for s, count in counts.items():
            start, stop = self.done[s], self.done[s] + count
            tokens += self.tokens[s][start:stop]
            positions += range(start, stop)
            starts.append(len(tokens))
            lengths.append(stop)
            self.done[s] = stop
        logits = self.program.run(
            token_ids=ints(tokens),
            positions=ints(positions),
            query_starts=ints(starts),
            context_lens=ints(lengths),
            block_tables=self.tables[list(counts)],
            logit_rows=ints(range(len(tokens))),
        )
        for i, s in enumerate(counts):
            self.logits[s] += list(logits[starts[i] : starts[i + 1]].copy())


def ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.int32)


def logits(program: _native.Program, tokens: Sequence[int], chunk: int = 1 << 20, block_size: int = 16) -> np.ndarray:
    """Of all the tokens of one sequence, brought `chunk` at a time."""
    sequences = Sequences(program, [tokens], block_size)
    while sequences.done[0] < len(tokens):
        sequences.step({0: min(chunk, len(tokens) - sequences.done[0])})
    return np.array(sequences.logits[0])


def random_tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()
