"""Two products, of which one gates the other, against float64, and bit for bit between numbers of rows."""

from __future__ import annotations

import pytest
import torch

from tests.runtime.cuda import reference
from tests.runtime.cuda.compiled import compiled
from tests.runtime.cuda.kernels.values import error, meta, random
from trivet.runtime.cuda.kernels import bulk
from trivet.runtime.cuda.kernels.activation import ACTIVATIONS
from trivet.runtime.cuda.kernels.gated import gated_linear, interleaved, usable
from trivet.runtime.cuda.kernels.matrix import Matrix


def case(tokens: int, columns: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, gate, up = (random(n, columns, dtype=torch.bfloat16, seed=i) for i, n in enumerate((tokens, rows, rows)))
    return x, gate, up


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("tokens", "columns", "rows"), [(1, 64, 40), (17, 304, 72), (70, 136, 264)])
def test_gated_linear(tokens: int, columns: int, rows: int, act: str) -> None:
    x, gate, up = case(tokens, columns, rows)
    expected = reference.activation(act, x.double() @ gate.double().T) * (x.double() @ up.double().T)
    y = gated_linear(x, Matrix(interleaved(torch.cat([gate, up]))), act)
    assert y.dtype == x.dtype and error(y, expected) < 8e-3


@pytest.mark.parametrize("tile", [*bulk.ONE_WARP_GROUP.values(), *bulk.LARGEST, bulk.PERSISTENT], ids=str)
def test_every_tile_gives_the_same(tile: bulk.Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate, up = case(70, 64, 136)
    matrix = Matrix(interleaved(torch.cat([gate, up])))
    expected = gated_linear(x, matrix, "silu")
    monkeypatch.setattr(bulk, "tile", lambda *_: tile)
    assert torch.equal(gated_linear(x, matrix, "silu"), expected)


def test_where_it_is_used() -> None:
    place = torch.device("cpu")  # as if it were an H100
    assert usable(40, 64, torch.bfloat16, place)
    assert not any(usable(*case, place) for case in [(40, 64, torch.float32), (41, 64, torch.float16)])
    assert not usable(40, 65, torch.float16, place)


@pytest.mark.parametrize("tokens", [1, 32, 64, 256, 8192])
def test_compiled(tokens: int) -> None:
    for kernel in compiled(lambda: gated_linear(meta(tokens, 4096), Matrix(meta(28672, 4096)), "silu")):
        assert kernel.loop_spills == kernel.stack == 0 and not kernel.serial, kernel
