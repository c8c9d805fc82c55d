"""Norms, activations and embeddings on a GPU: against float64, the same bits in any company, beside the bandwidth.

Used by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional

from bench.gpu_model import Limits
from bench.gpu_products import each, random_matrix, relative, same_bits, weights
from bench.gpu_table import Row, check
from trivet.runtime.cuda.kernels.activation import ACTIVATIONS, act_mul
from trivet.runtime.cuda.kernels.embedding import embed
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.norm import add_rms_norm, rms_norm
from trivet.weights.formats import Format

EPS = 1e-5

ALLOWED = {torch.bfloat16: 4e-3, torch.float32: 1e-5}


def normed(x: torch.Tensor, weight: torch.Tensor, group: int = 0) -> torch.Tensor:
    """In float64."""
    parts = x.double().unflatten(1, (-1, group or x.shape[1]))
    return (parts / (parts.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()).flatten(1)


def activated(gate: torch.Tensor, act: str) -> torch.Tensor:
    x = gate.double()
    return functional.silu(x) if act == "silu" else functional.gelu(x, approximate="tanh" if "tanh" in act else "none")


def checks(
    device: str, tokens: int = 1100, widths: tuple[int, ...] = (2880, 4096, 14336), vocab: int = 1000
) -> Iterator[Row]:
    for dtype, allowed in ALLOWED.items():
        kind = str(dtype).removeprefix("torch.")
        for width in widths:
            a, b = (torch.randn(tokens, width, device=device).to(dtype) for _ in range(2))
            weight = torch.randn(width, device=device)
            yield check(f"norm of {width} {kind}", relative(rms_norm(a, weight, EPS), normed(a, weight)), allowed)
            total, y = add_rms_norm(a, b, weight, EPS)
            differing = float((total != a + b).sum())
            yield check(f"sum before a norm of {width} {kind}", differing, 0, "{:.0f} differ from PyTorch's")
            yield check(f"norm of a sum of {width} {kind}", relative(y, normed(a + b, weight)), allowed)
            for act in ACTIVATIONS:
                error = relative(act_mul(a, b, act), activated(a, act) * b.double())
                yield check(f"{act} x {width} {kind}", error, allowed)
            if dtype == torch.bfloat16:
                yield from same_bits(f"norm of {width}", partial(rms_norm, weight=weight, eps=EPS), a)
        x, weight = torch.randn(tokens, 512, device=device).to(dtype), torch.randn(128, device=device)
        yield check(f"norms of 128 {kind}", relative(rms_norm(x, weight, EPS, 128), normed(x, weight, 128)), allowed)
    ids = torch.randint(vocab, (tokens,), device=device, dtype=torch.int32)
    for fmt in (None, Format.Q4_K, Format.Q6_K, Format.Q8_0):
        table = random_matrix(fmt, vocab, 1024, device)
        error = relative(embed(ids, table, 2.0, torch.bfloat16), 2 * weights(table)[ids.long()])
        yield check(f"embeddings in {fmt.name if fmt else 'bfloat16'}", error, ALLOWED[torch.bfloat16])


def timings(device: str, limits: Limits, tokens: int = 8192, hidden: int = 4096, ffn: int = 14336) -> Iterator[Row]:
    """The bound: all is read once and written once. Results are too large for the L2 cache."""
    a, b = (torch.randn(tokens, hidden, device=device).bfloat16() for _ in range(2))
    gate, up = torch.randn(tokens, 2 * ffn, device=device).bfloat16().chunk(2, 1)
    weight = torch.randn(hidden, device=device)
    table = Matrix(torch.randn(16 * tokens, hidden, device=device).bfloat16())
    ids = torch.randint(16 * tokens, (tokens,), device=device, dtype=torch.int32)
    cases: dict[str, tuple[Callable[[], object], int]] = {
        f"add and norm {tokens} x {hidden}": (lambda: add_rms_norm(a, b, weight, EPS), 4 * a.nbytes),
        f"silu and product {tokens} x {ffn}": (lambda: act_mul(gate, up, "silu"), 3 * 2 * tokens * ffn),
        f"embeddings {tokens} x {hidden}": (lambda: embed(ids, table, 1.0, torch.bfloat16), 2 * a.nbytes),
    }
    for name, (call, size) in cases.items():
        took = each(lambda _: call(), range(10), device)  # noqa: B023
        bound = size / limits.bandwidth
        yield Row(name, f"{took * 1e6:.0f} us", f"{bound * 1e6:.0f} us = {size / 1e6:.0f} MB", bound / took)
