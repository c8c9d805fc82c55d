"""What a step's sampling gave: on the device at once, on the host when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trivet.engine.plan import StepOutput
from trivet.engine.request import TokenLogprob
from trivet.runtime.cuda.sampling.batch import SamplingBatch
from trivet.runtime.cuda.sampling.reports import Reported

_ERRORS = (
    None,
    "non-finite logits",
    "no token is possible: logit_bias, allowed_token_ids, bad_words and min_tokens rule out all",
)
"""By the number that the kernels give."""


@dataclass(slots=True)
class Results:
    """Parts of one buffer, each with an entry for every row."""

    buffer: torch.Tensor
    states: torch.Tensor
    """[R, 2] float64"""
    tokens: torch.Tensor
    """int32; 0 where the row has an error, so that a step that goes on from it finds a token."""
    errors: torch.Tensor
    """int32, 0 for none"""
    ranks: torch.Tensor
    """int32"""
    logprobs: torch.Tensor
    """float32"""

    @classmethod
    def on(cls, device: torch.device, size: int) -> Results:
        # Each part is aligned, whatever the size: a kernel is compiled for how its pointers are.
        return cls.of(torch.empty((8, -(-size // 4) * 4), dtype=torch.int32, device=device), size)

    @classmethod
    def of(cls, buffer: torch.Tensor, size: int) -> Results:
        """`buffer` is int32 [8, size or more]."""
        states = buffer[:4].view(-1).view(torch.float64).view(-1, 2)[:size]
        tokens, errors, ranks, logprobs = buffer[4:, :size]
        return cls(buffer, states, tokens, errors, ranks, logprobs.view(torch.float32))


class DeviceSamples:
    """The results of one `DeviceSampler.sample`, on their way to the host since then."""

    def __init__(self, batch: SamplingBatch, results: Results, reported: Sequence[Reported]) -> None:
        self.tokens = results.tokens
        """[R] int32, on the device. Each is a token of the vocabulary; in rows with errors it means nothing."""
        self._batch = batch
        self._results = _fetch(results.buffer)
        self._reported = [
            replace(
                r,
                ids=None if r.ids is None else _fetch(r.ids),
                logprobs=_fetch(r.logprobs),
                num_equal=None if r.num_equal is None else _fetch(r.num_equal),
            )
            for r in reported
        ]
        self._arrived: torch.cuda.Event | None = None
        if results.buffer.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def collect(self) -> StepOutput:
        """Wait for the results."""
        if self._arrived is not None:
            self._arrived.synchronize()
        batch, results = self._batch, Results.of(self._results, len(self.tokens))
        tokens = results.tokens.numpy().copy()
        errors = [_ERRORS[number] for number in results.errors.tolist()]
        out = StepOutput(tokens, [None] * len(tokens), errors)
        fails = [error is not None for error in errors]
        tokens[fails] = -1
        for group in batch.groups:
            if group.selector != "draw":
                states = zip(group.rows, results.states[group.rows].tolist(), strict=True)
                out.states |= {r: (first, second) for r, (first, second) in states if not fails[r]}
        lists: dict[int, list[tuple[int, float]]] = {}
        for reported in self._reported:
            lists |= reported.lists(fails)
        logprobs, ranks = results.logprobs.tolist(), results.ranks.tolist()
        for r in batch.reporting:
            if not fails[r]:
                out.logprobs[r] = TokenLogprob(int(tokens[r]), logprobs[r], ranks[r], lists.get(r, []))
        return out


def _fetch(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host that is there once the device has done what it was given so far."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
