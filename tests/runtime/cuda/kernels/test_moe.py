from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.blocks import dequantize as expected
from tests.runtime.cuda.compiled import INSTRUCTIONS, compiled
from tests.runtime.cuda.kernels.test_activation import reference as activation
from tests.runtime.cuda.kernels.test_quantized import random_rows
from tests.runtime.cuda.kernels.values import error, meta, random
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.moe import choose, group, moe
from trivet.weights.formats import Format


def reference(
    x: torch.Tensor, weights: list[torch.Tensor], top_k: int, act: str, normalize: bool, scale: float
) -> torch.Tensor:
    x, (router, gate, up, down) = x.double(), [w.double() for w in weights]
    probabilities = (x @ router.T).softmax(-1)
    shares, chosen = probabilities.sort(dim=-1, descending=True, stable=True)
    shares, chosen = shares[:, :top_k], chosen[:, :top_k]
    if normalize:
        shares = shares / shares.sum(-1, keepdim=True)
    y = torch.zeros_like(x)
    for t in range(len(x)):
        for share, e in zip(shares[t], chosen[t], strict=True):
            y[t] += share * scale * (down[e] @ (activation(gate[e] @ x[t], act) * (up[e] @ x[t])))
    return y


def experts(count: int, rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (random(count, rows, columns, seed=seed) / columns**0.5).to(dtype)


@pytest.mark.parametrize(
    ("tokens", "count", "top_k", "normalize", "act"),
    [(1, 4, 2, True, "silu"), (7, 5, 3, False, "gelu_tanh"), (70, 3, 1, True, "silu"), (40, 8, 8, False, "gelu")],
)
def test_dense(tokens: int, count: int, top_k: int, normalize: bool, act: str) -> None:
    weights = [random(count, 64), experts(count, 48, 64, 1), experts(count, 48, 64, 2), experts(count, 64, 48, 3)]
    x = random(tokens, 64, seed=4)
    y = moe(x, *map(Matrix, weights), top_k, act, normalize, 1.5)
    assert error(y, reference(x, weights, top_k, act, normalize, 1.5)) < 1e-5


def test_blocks_of_several_formats() -> None:
    shapes = {Format.Q4_K: (70, 256), Format.Q8_0: (70, 256), Format.Q5_0: (256, 70 // 32 * 32)}
    data = [
        np.stack([random_rows(fmt, *shape, seed) for seed in range(3)]) * np.uint8(1) for fmt, shape in shapes.items()
    ]
    data[0], data[1] = data[0][:, :64], data[1][:, :64]
    weights = [random(3, 256) / 16, *(torch.from_numpy(expected(f, d)) for f, d in zip(shapes, data, strict=True))]
    packed = [Matrix.packed(torch.from_numpy(d), fmt) for fmt, d in zip(shapes, data, strict=True)]
    x = random(5, 256, seed=4) / 1e3
    assert (
        error(moe(x, Matrix(weights[0]), *packed, 2, "silu", True, 1.0), reference(x, weights, 2, "silu", True, 1.0))
        < 1e-5
    )


@pytest.mark.usefixtures("chains")
def test_rows_beside() -> None:
    weights = [random(4, 64), experts(4, 64, 64, 1), experts(4, 64, 64, 2), experts(4, 64, 64, 3)]
    matrices = [Matrix(w.bfloat16()) for w in weights]
    x = random(70, 64, seed=4, dtype=torch.bfloat16)
    together = moe(x, *matrices, 2, "silu", True, 1.0)
    for count in (1, 2, 7, 33):
        assert moe(x[-count:], *matrices, 2, "silu", True, 1.0).equal(together[-count:])


def test_choice() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0], [5.0, 1.0, 1.0, 1.0, 1.0], [float("nan")] * 5])
    chosen, shares = choose(logits, 3, True, 2.0)
    assert chosen[:2].tolist() == [[1, 2, 4], [0, 1, 2]]
    assert shares[0].tolist() == pytest.approx([2 / 3] * 3)
    assert chosen[2].tolist() == [0, 1, 2]
    plain = choose(logits[:2], 2, False, 1.0)[1]
    assert torch.allclose(plain, logits[:2].softmax(-1).topk(2)[0])


@pytest.mark.parametrize(("tokens", "count", "top_k", "block"), [(1, 8, 2, 16), (100, 6, 2, 16), (1500, 130, 1, 64)])
def test_groups(tokens: int, count: int, top_k: int, block: int) -> None:
    chosen = torch.randint(0, count - 1, (tokens, top_k), generator=torch.Generator().manual_seed(1)).int()
    order, tiles = group(chosen, count, block)
    flat = chosen.flatten()
    assert order.tolist() == flat.sort(stable=True)[1].tolist()
    seen = []
    for expert, begin, end in tiles.T.tolist():
        if expert >= 0:
            assert 0 < end - begin <= block
            assert (flat[order[begin:end].long()] == expert).all()
            seen += range(begin, end)
    assert seen == list(range(tokens * top_k))


@pytest.mark.parametrize(
    ("fmt", "arch"), [(None, 90), (None, 100), (Format.Q4_K, 90), (Format.Q6_K, 80), (Format.Q4_K, 100)], ids=str
)
def test_compiled(fmt: Format | None, arch: int) -> None:
    def stack(rows: int, columns: int) -> Matrix:
        if fmt is None:
            return Matrix(meta(128, rows, columns))
        return Matrix.packed(meta(128, rows, fmt.row_bytes(columns), dtype=torch.uint8), fmt)

    def calls() -> None:
        router = Matrix(meta(128, 2048, dtype=torch.float32))
        for tokens in (1, 4096):
            moe(meta(tokens, 2048), router, stack(768, 2048), stack(768, 2048), stack(2048, 768), 8, "silu", True, 1.0)

    for kernel in compiled(calls, arch):
        assert kernel.stack == 0, kernel
        if kernel.name == "expert_kernel":
            assert kernel.instructions == {INSTRUCTIONS.get(arch, "mma.sync")}, kernel
