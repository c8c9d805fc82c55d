"""act(x G^T) * (x U^T) by one kernel, where Hopper's copy engine loads dense weights (bulk.py).

G and U are one matrix, of which each gives eight rows in turn. That is how a tile's sums lie in registers: a thread has
both values of a pair, and what is written, and read again by the next product, is half as much.
"""

from __future__ import annotations

import torch

from trivet.runtime.cuda.kernels import bulk
from trivet.runtime.cuda.kernels.matrix import Matrix

GROUP = 8


def usable(rows: int, columns: int, dtype: torch.dtype, place: torch.device) -> bool:
    """Whether this is how rows of `dtype` are multiplied with two matrices [rows, columns] of the same type."""
    return rows % GROUP == 0 and columns % 8 == 0 and bulk.multiplies(dtype, place)


def interleaved(values: torch.Tensor) -> torch.Tensor:
    """Of G above U [2 N, K], a copy in the order that is wanted here."""
    rows, columns = values.shape
    return values.view(2, rows // (2 * GROUP), GROUP, columns).transpose(0, 1).reshape(rows, columns)


def gated_linear(x: torch.Tensor, matrix: Matrix, act: str) -> torch.Tensor:
    """x [T, K], rows at any distance, and `interleaved` matrices [2 N, K]: [T, N] in x's type, rounded once. `act` is
    one of ACTIVATIONS."""
    weights = matrix.values
    assert isinstance(weights, torch.Tensor)
    y = x.new_empty(len(x), len(weights) // 2)
    if len(x):
        tile = bulk.tile(len(weights), len(x), 1, x.device)
        bulk.bulk_product(x, weights, None, y, tile, 1, matrix.columns, act)
    return y
