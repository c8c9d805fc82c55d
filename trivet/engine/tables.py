"""The block tables of the running sequences, kept as one array so that a step's table is a single gather."""

from __future__ import annotations

import numpy as np


class BlockTables:
    """int32, one row a running sequence, padded with -1; rows are lent and given back."""

    def __init__(self, num_rows: int) -> None:
        self._table = np.full((num_rows, 16), -1, np.int32)
        self._free = list(range(num_rows - 1, -1, -1))

    def acquire(self) -> int:
        return self._free.pop()

    def release(self, row: int) -> None:
        self._table[row] = -1
        self._free.append(row)

    def put(self, row: int, index: int, blocks: list[int]) -> None:
        """Set the entries from `index` on."""
        end = index + len(blocks)
        if end > self._table.shape[1]:
            wider = np.full((len(self._table), max(end, 2 * self._table.shape[1])), -1, np.int32)
            wider[:, : self._table.shape[1]] = self._table
            self._table = wider
        self._table[row, index:end] = blocks

    def gather(self, rows: list[int], width: int) -> np.ndarray:
        """[len(rows), width], a copy."""
        return self._table[:, :width].take(rows, 0)
