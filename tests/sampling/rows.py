"""Rows of logits and how to sample them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trivet import _native
from trivet.engine.plan import SampleRow
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams

CHAIN = ("bad_words", "dry_breakers", "end_tokens", "piece_parents")


def row(seed: int = 0, history: tuple[int, ...] = (), prompt_len: int = 0, **fields: Any) -> SampleRow:
    """Fields are those of SampleRow, of Chain or of SamplingParams."""
    rest = {name: fields.pop(name) for name in ("target", "suppressed", "state") if name in fields}
    tokens = {name: fields.pop(name) for name in CHAIN if name in fields}
    ids = np.array(history, dtype=np.int32)
    return SampleRow(Chain(SamplingParams(**fields), **tokens), seed, len(ids), prompt_len, ids, **rest)


def logits_of(weights: list[float]) -> np.ndarray:
    return np.log(np.array([weights], dtype=np.float32))


def probabilities(weights: list[float], **fields: Any) -> np.ndarray:
    return _native.probabilities(logits_of(weights), [row(**fields)])[0]
