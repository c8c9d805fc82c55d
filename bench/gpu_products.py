"""Products with weights on a GPU: that they are right, that a row's bits depend on no other row, and their speed.

Used by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.gpu_model import Limits, seconds
from bench.gpu_shapes import random_blocks
from bench.gpu_table import Row, check
from trivet import _native
from trivet.runtime.cuda.kernels.gated import gated_linear, interleaved, usable
from trivet.runtime.cuda.kernels.linear import FUSED_ROWS, linear
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.moe import moe
from trivet.runtime.cuda.kernels.quantized.blocks import FORMATS, Blocks
from trivet.runtime.cuda.kernels.quantized.dequantize import dequantize
from trivet.weights.formats import Format

ROWS = (1, 2, 7, 16, 17, 33, 64, 65, 128, 129, 256, 257, 513, 1100)
"""Of activations: on both sides of every change of tiles and of ways through linear.py."""

DENSE = {None: torch.bfloat16, Format.F16: torch.float16}


def random_matrix(fmt: Format | None, rows: int, columns: int, device: str, seed: int = 0) -> Matrix:
    """bfloat16, float16, or blocks of `fmt`."""
    if fmt not in FORMATS:
        return Matrix(torch.randn(rows, columns, device=device).to(DENSE[fmt]) / columns**0.5)
    return Matrix.packed(torch.from_numpy(random_blocks(fmt, rows, columns, seed)).to(device), fmt)


def relative(y: torch.Tensor, reference: torch.Tensor) -> float:
    return float((y.double() - reference).norm() / reference.norm())


def weights(matrix: Matrix) -> torch.Tensor:
    """As float64."""
    values = matrix.values
    if isinstance(values, torch.Tensor):
        return values.double()
    if values.quants.ndim == 1:
        return dequantize(values, torch.float32).double()
    high = [None] * len(values.quants) if values.high is None else values.high
    planes = zip(values.quants, high, values.header, strict=True)
    return torch.stack([weights(Matrix(Blocks(values.format, values.rows, values.columns, *one))) for one in planes])


def mixed(x: torch.Tensor, router: Matrix, gate: Matrix, up: Matrix, down: Matrix, top_k: int) -> torch.Tensor:
    """What `moe` computes with silu and normalised shares, by all experts, in float64."""
    x = x.double()
    best = (x @ weights(router).T).softmax(-1).topk(top_k)
    shares = torch.zeros(len(x), len(weights(router)), dtype=torch.float64, device=x.device)
    shares.scatter_(1, best.indices, best.values / best.values.sum(-1, keepdim=True))
    y = torch.zeros_like(x)
    for share, g, u, d in zip(shares.T, weights(gate), weights(up), weights(down), strict=True):
        y += share[:, None] * ((torch.nn.functional.silu(x @ g.T) * (x @ u.T)) @ d.T)
    return y


def checks(
    device: str,
    shapes: tuple[tuple[int, int], ...] = ((1000, 1024), (4096, 4096), (1000, 1120), (16384, 512)),
    hidden: int = 768,
    width: int = 512,
    formats: tuple[Format | None, ...] = (None, *FORMATS),
    counts: tuple[int, ...] = ROWS,
) -> Iterator[Row]:
    """`shapes`: (rows, columns) of weights; `hidden` and `width`: of experts; `counts`: of rows of activations.

    None among the formats is bfloat16.
    """
    for fmt in [one for one in formats if one in FORMATS]:
        data = random_blocks(fmt, 100, 1024)
        values = dequantize(Matrix.packed(torch.from_numpy(data).to(device), fmt).values, torch.float32)
        expected = _native.dequantize(fmt.type_id, data.reshape(-1), values.numel())
        different = (values.cpu().numpy().reshape(-1) != expected).sum()
        yield check(f"{fmt.name}: weights", float(different), 0, "{:.0f} differ")
    for shape in shapes:
        for fmt in [one for one in formats if one not in FORMATS or shape[1] % one.block_size == 0]:
            matrix = random_matrix(fmt, *shape, device)
            x = torch.randn(max(counts), shape[1], device=device).bfloat16()
            name = f"{fmt.name if fmt else 'bfloat16'} {shape}"
            yield from same_bits(name, partial(linear, matrix=matrix), x, counts)
            yield check(f"{name}: error", relative(linear(x, matrix), x.double() @ weights(matrix).T), 6e-3)
            if fmt is None and usable(*shape, torch.bfloat16, torch.device(device)):
                yield from gated_checks(device, shape, x, counts)
    for fmt in formats:
        router = Matrix(torch.randn(8, width, device=device))
        gate, up = (stack(fmt, 8, hidden, width, device) for _ in range(2))
        down = stack(fmt, 8, width, hidden, device)
        mixture = partial(
            moe, router=router, gate=gate, up=up, down=down, top_k=2, act="silu", normalize=True, scale=1.0
        )
        x = torch.randn(max(counts), width, device=device).bfloat16()
        name = f"experts of {fmt.name if fmt else 'bfloat16'}"
        yield from same_bits(name, mixture, x, counts)
        yield check(f"{name}: error", relative(mixture(x), mixed(x, router, gate, up, down, 2)), 1e-2)


def gated_checks(device: str, shape: tuple[int, int], x: torch.Tensor, counts: tuple[int, ...]) -> Iterator[Row]:
    gate, up = (random_matrix(None, *shape, device) for _ in range(2))
    both = Matrix(interleaved(torch.cat([weights(gate), weights(up)]).bfloat16()))
    product = partial(gated_linear, matrix=both, act="silu")
    expected = torch.nn.functional.silu(x.double() @ weights(gate).T) * (x.double() @ weights(up).T)
    name = f"gated bfloat16 {shape}"
    yield from same_bits(name, product, x, counts)
    yield check(f"{name}: error", relative(product(x), expected), 6e-3)


def same_bits(
    name: str, call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, counts: tuple[int, ...] = ROWS
) -> Iterator[Row]:
    """That the last rows of x have the same results alone."""
    together = call(x)
    different = [rows for rows in counts if rows <= len(x) and not call(x[-rows:]).equal(together[-rows:])]
    yield check(f"{name}: rows beside", float(len(different)), 0, f"bits change with {different or 'no'} rows")


def stack(fmt: Format | None, count: int, rows: int, columns: int, device: str) -> Matrix:
    if fmt not in FORMATS:
        return Matrix(torch.randn(count, rows, columns, device=device).to(DENSE[fmt]) / columns**0.5)
    data = np.stack([random_blocks(fmt, rows, columns, seed) for seed in range(count)])
    return Matrix.packed(torch.from_numpy(data).to(device), fmt)


SHAPES = {"qkv": (6144, 4096), "output": (4096, 4096), "gate and up": (28672, 4096), "down": (4096, 14336)}
"""Of Llama 3.1 8B."""

CACHE = 256 << 20
"""Bytes of weights to go through, so that no product finds its own in the L2 cache."""


def timings(
    device: str,
    limits: Limits,
    formats: tuple[Format | None, ...] = (None, Format.Q4_K, Format.Q4_0, Format.Q6_K, Format.Q8_0),
    shapes: dict[str, tuple[int, int]] = SHAPES,
    tokens: tuple[int, ...] = (1, 16, 64, 256, 8192),
    cache: int = CACHE,
) -> Iterator[Row]:
    """Each beside the longer of its two bounds, all bytes once and all operations, and beside torch.matmul with weights
    in bfloat16. "fast" differs from "exact" in products of dense weights, and of packed ones with many rows."""
    for fmt in formats:
        for name, (rows, columns) in shapes.items():
            first = random_matrix(fmt, rows, columns, device)
            matrices = [first] + [copied(first) for _ in range(cache // first.num_bytes)]
            dense = [
                torch.randn(rows, columns, device=device).bfloat16() for _ in range(cache // (2 * rows * columns) + 1)
            ]
            for count in tokens:
                x = torch.randn(count, columns, device=device).bfloat16()
                size = first.num_bytes + 2 * count * (rows + columns)
                operations = 2 * count * rows * columns
                bound = max(size / limits.bandwidth, operations / limits.flops)
                peer = each(lambda w: x @ w.T, dense, device)  # noqa: B023
                for numerics in ("exact", "fast") if fmt is None or count > FUSED_ROWS else ("exact",):
                    took = each(partial(linear, x, numerics=numerics), matrices, device)
                    yield Row(
                        f"{fmt.name if fmt else 'bfloat16'} {name} x {count}, {numerics}",
                        f"{took * 1e6:.1f} us (torch.matmul of bfloat16: {peer * 1e6:.1f})",
                        f"{bound * 1e6:.1f} us, the more of {size / 1e6:.0f} MB and {operations / 1e12:.3f} TFLOP",
                        bound / took,
                    )


def each(call: Callable[[Any], object], matrices: Sequence[Any], device: str) -> float:
    """Seconds of a product, from those with all matrices in turn."""
    return seconds(replayed(lambda: [call(matrix) for matrix in matrices], device), device) / len(matrices)


def copied(matrix: Matrix) -> Matrix:
    values = matrix.values
    if isinstance(values, torch.Tensor):
        return Matrix(values.clone())
    high = None if values.high is None else values.high.clone()
    return Matrix(
        Blocks(values.format, values.rows, values.columns, values.quants.clone(), high, values.header.clone())
    )


def replayed(call: Callable[[], object], device: str) -> Callable[[], object]:
    """`call` as a CUDA graph, whose launches take no time of the host."""
    if device != "cuda":
        return call
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
