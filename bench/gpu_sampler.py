"""Sampling on a GPU: the tokens of the native sampler from the same logits, and its time.

Used by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.gpu_model import Limits, seconds
from bench.gpu_table import Row, check
from trivet.engine.plan import SampleRow
from trivet.runtime.cuda.sampler import DeviceSampler
from trivet.sampling.chain import Chain
from trivet.sampling.params import LLAMACPP_STAGES, TGI_STAGES, SamplingParams
from trivet.sampling.sampler import sample

CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.9},
    "top k, p and min p": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3, "top_p": 0.9},
    "log-probabilities": {"temperature": 0.7, "logprobs": 5},
    "typical p of TGI": {"stages": TGI_STAGES, "typical_p": 0.6, "watermark": True, "repetition_penalty": 1.1},
    "llama.cpp's stages": {
        "stages": LLAMACPP_STAGES, "top_k": 60, "top_n_sigma": 1.5, "xtc_probability": 0.7, "dry_multiplier": 0.8,
        "dynatemp_range": 0.3,
    },
    "typical p": {"typical_p": 0.6, "min_keep": 5, "top_p": 0.9, "logprobs": 2, "logprobs_mode": "processed"},
    "mirostat": {"stages": LLAMACPP_STAGES, "mirostat": 2},
    "mirostat 1": {"stages": LLAMACPP_STAGES, "mirostat": 1},
    "adaptive p": {"stages": ("min_p", "adaptive_p"), "min_p": 0.01, "adaptive_target": 0.4},
    "single tokens": {"logit_bias": {3: 4.0, 9: -100.0}, "allowed_token_ids": [*range(2, 40, 3)]},
    "infill": {"stages": ("top_k", "top_p", "infill"), "top_k": 60, "top_p": 0.99},
    "penalties of both kinds": {
        "stages": ("penalties", "tgi_penalties"), "repetition_penalty": 1.2, "frequency_penalty": 0.3,
        "penalty_last_n": 16,
    },
}  # fmt: skip


def rows_of(params: SamplingParams, count: int, seed: int, vocab: int) -> list[SampleRow]:
    rng = np.random.default_rng(seed)
    beginnings = (np.arange(vocab, dtype=np.int32) - 1) // 4  # each token's text begins those of four others
    chain = Chain(params, end_tokens=[7], piece_parents=beginnings.tobytes())
    state = chain.native.first_state or ()
    return [
        SampleRow(chain, seed + row, 64, 32, rng.integers(0, min(vocab, 200), 64).astype(np.int32), state=tuple(state))
        for row in range(count)
    ]


def checks(device: str, vocab: int = 128256, rounds: int = 4, rows: int = 16) -> Iterator[Row]:
    """Random numbers decide tokens alike: of so many rows, none may have another token."""
    sampler = DeviceSampler(vocab, device)
    for name, fields in CHOICES.items():
        different = 0
        off = 0.0
        for seed in range(rounds):
            logits = np.random.default_rng(seed).normal(0, 1 + 2 * (seed % 3), (rows, vocab)).astype(np.float32)
            batch = rows_of(SamplingParams(**fields), rows, 1000 * seed, vocab)
            got = sampler.sample(torch.from_numpy(logits).to(device), sampler.prepare(batch)).collect()
            want = sample(logits, batch)
            different += int((got.tokens != want.tokens).sum()) + (got.errors != want.errors)
            for ours, theirs in zip(got.logprobs, want.logprobs, strict=True):
                if ours is not None and theirs is not None:
                    off = max(off, abs(ours.logprob - theirs.logprob))
        yield check(f"sampling, {name}", different, 0, f"{{}} of {rounds * rows} tokens differ")
        if "logprobs" in fields:
            yield check(f"sampling, {name}", off, 1e-4)


def timings(device: str, limits: Limits, rows: int = 64, vocab: int = 128256) -> Iterator[Row]:
    """With preparation on the host; beside one reading of all logits. No chain's time has a target of its own."""
    sampler = DeviceSampler(vocab, device)
    logits = torch.randn(rows, vocab, device=device)
    bound = logits.nbytes / limits.bandwidth
    for name in ("greedy", "top k, p and min p", "penalties"):
        batch = rows_of(SamplingParams(**CHOICES[name]), rows, 0, vocab)
        took = seconds(lambda: sampler.sample(logits, sampler.prepare(batch)), device)  # noqa: B023
        measured = f"{took * 1e6:.0f} us"
        yield Row(
            f"sampling {rows}, {name}", measured, f"{bound * 1e6:.0f} us = {logits.nbytes / 1e6:.0f} MB", bound / took
        )
