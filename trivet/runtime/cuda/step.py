"""A step's arrays on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Self

import numpy as np
import torch

from trivet.engine.plan import StepPlan
from trivet.runtime.cuda.device import Device


@dataclass(slots=True)
class StepInputs:
    """What kernels read of a step: int32 tensors on the device, for T tokens of S sequences."""

    token_ids: torch.Tensor
    """[T]"""
    positions: torch.Tensor
    """[T] of each token in its sequence."""
    slots: torch.Tensor
    """[T] block * block_size + offset, where its keys and values go; -1 writes nothing."""
    query_starts: torch.Tensor
    """[S + 1] sequence s brings the tokens `query_starts[s]:query_starts[s + 1]`."""
    context_lens: torch.Tensor
    """[S] tokens of the sequence in the cache after this step."""
    logit_rows: torch.Tensor
    """[R] tokens whose logits are needed, ascending."""
    block_tables: torch.Tensor
    """[S, B] block ids in order; those past a sequence's context mean nothing."""
    max_query_len: int
    """An upper bound; with the next, the same for all steps that replay one graph."""
    max_context_len: int
    all_rows: bool = False
    """`logit_rows` is 0..T-1."""
    hidden: torch.Tensor | None = None
    """[T, width] what a graph that was cut begins with."""
    logits: torch.Tensor | None = None
    """[R, V] float32: where the logits go, if not to new memory."""

    @property
    def decode(self) -> bool:
        """Whether every sequence brings one token."""
        return self.max_query_len == 1


def table_width(context: int, block_size: int) -> int:
    """Blocks of a table for so many tokens: a multiple of 16, as Triton compiles kernels anew for other strides."""
    return -(-context // (16 * block_size)) * 16


@dataclass(slots=True)
class HostStep:
    """The same on the host, as numpy arrays of int32."""

    token_ids: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    query_starts: np.ndarray
    context_lens: np.ndarray
    logit_rows: np.ndarray
    block_tables: np.ndarray
    max_query_len: int
    max_context_len: int
    all_rows: bool

    @classmethod
    def of(cls, plan: StepPlan, block_size: int) -> Self:
        lengths = np.diff(plan.query_starts)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        blocks = plan.block_tables[owners, plan.positions // block_size]
        longest = int(lengths.max())
        tokens, rows = len(plan.token_ids), len(plan.logit_rows)
        context = int(plan.context_lens.max())
        width = -(-context // block_size)
        tables = np.zeros((len(lengths), table_width(context, block_size)), np.int32)
        tables[:, :width] = plan.block_tables[:, :width]
        return cls(
            plan.token_ids,
            plan.positions,
            blocks * block_size + plan.positions % block_size,
            plan.query_starts,
            plan.context_lens,
            plan.logit_rows,
            tables,
            longest,
            context,
            rows == tokens,
        )

    def padded(self, sequences: int) -> HostStep:
        """A step of single tokens as one of so many.

        The rows added are the token 0 without context: they write nothing, and attention gives them zeros.
        """

        def longer(array: np.ndarray, value: int = 0) -> np.ndarray:
            more = np.full((sequences - len(array), *array.shape[1:]), value, np.int32)
            return np.concatenate([array, more])

        return HostStep(
            longer(self.token_ids),
            longer(self.positions),
            longer(self.slots, -1),
            np.arange(sequences + 1, dtype=np.int32),
            longer(self.context_lens),
            np.arange(sequences, dtype=np.int32),
            longer(self.block_tables),
            1,
            self.max_context_len,
            True,
        )

    @property
    def arrays(self) -> list[np.ndarray]:
        """In the order of the fields of StepInputs."""
        return [getattr(self, field.name) for field in fields(self)[:7]]


ALIGNMENT = 4
"""Of an array within the one that is copied, in ints: kernels load 16 bytes at a time."""


class Staging:
    """Brings values to the device in asynchronous copies out of pinned memory.

    Two pinned buffers take turns, so that the next values can be written while those before are still being copied.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._hosts = [(device.pinned_bytes(0), device.event()) for _ in range(2)]
        self._turn = 0

    def send(self, target: torch.Tensor, write: Callable[[torch.Tensor], object]) -> None:
        """`write` fills a tensor on the host like `target`, on the device, which is contiguous."""
        self._turn = (self._turn + 1) % len(self._hosts)
        host, copied = self._hosts[self._turn]
        copied.synchronize()
        if host.numel() < target.nbytes:
            host = self._device.pinned_bytes(max(target.nbytes, 2 * host.numel()))
            self._hosts[self._turn] = host, copied
        values = host[: target.nbytes].view(target.dtype).view(target.shape)
        write(values)
        target.copy_(values, non_blocking=True)
        copied.record()


class StepBuffer:
    """Brings steps to the device, each in one copy that nobody waits for."""

    def __init__(self, device: Device) -> None:
        self._place = device.place
        self._staging = Staging(device)

    def send(self, step: HostStep, target: torch.Tensor | None = None) -> StepInputs:
        """`target` is where it goes on the device (int32, of `ints_of(step)` at least), if not to new memory."""
        arrays = step.arrays
        starts = _starts(arrays)

        def write(host: torch.Tensor) -> None:
            values = host.numpy()
            for start, array in zip(starts, arrays, strict=False):
                values[start : start + array.size] = array.reshape(-1)

        if target is None:
            target = torch.empty(starts[-1], dtype=torch.int32, device=self._place)
        self._staging.send(target[: starts[-1]], write)
        return inputs_at(step, target)


def resolved(step: StepInputs, drawn: torch.Tensor) -> StepInputs:
    """The step with each token -1 - r replaced by `drawn[r]`."""
    ids = step.token_ids
    before = drawn.index_select(0, (-1 - ids).clamp_(min=0))
    return replace(step, token_ids=torch.where(ids < 0, before, ids))


def ints_of(step: HostStep) -> int:
    """How much of an int32 tensor a step takes."""
    return _starts(step.arrays)[-1]


def inputs_at(step: HostStep, values: torch.Tensor) -> StepInputs:
    """The inputs of a step that lie, or will lie, in an int32 tensor on the device."""
    arrays = step.arrays
    parts = {
        field.name: values[start : start + array.size].view(array.shape)
        for field, start, array in zip(fields(step), _starts(arrays), arrays, strict=False)
    }
    return StepInputs(
        **parts, max_query_len=step.max_query_len, max_context_len=step.max_context_len, all_rows=step.all_rows
    )


def _starts(arrays: list[np.ndarray]) -> list[int]:
    return list(accumulate((-(-array.size // ALIGNMENT) * ALIGNMENT for array in arrays), initial=0))
