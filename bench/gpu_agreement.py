"""That a model computes on a GPU what it computes elsewhere, and for each request the same in any company.

Used by bench/gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu_table import Row, check
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.plan import StepPlan
from trivet.engine.request import EngineRequest
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.hybrid import HybridRuntime
from trivet.sampling.params import SamplingParams

TOLERANCE = 3e-2
"""Of ‖logits - reference‖ / ‖reference‖: activations in bfloat16 are rounded to 8 bits some ten times a layer."""

FP8_TOLERANCE = 0.15
"""The same of a float8 cache beside a bfloat16 one: random models of 2 to 32 layers, computed in float64, are 0.05 to
0.07 off. Where texts of several splits are given the keys of their last one alone, 0.45."""


def logits(engine: Engine, tokens: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocabulary] of one prompt, in the first blocks of the idle engine's cache."""
    return forward(engine, [tokens], [0], len(tokens))


def forward(engine: Engine, texts: Sequence[np.ndarray], known: Sequence[int], rows: int) -> np.ndarray:
    """float32 [rows, vocabulary] of the last `rows` tokens of each text, or of all that are new: the idle engine's
    cache has the first `known` of each already. The texts' blocks alternate."""
    new = [text[done:] for text, done in zip(texts, known, strict=True)]
    ends = np.cumsum([len(tokens) for tokens in new])
    lengths = np.array([len(text) for text in texts], np.int32)
    blocks = -(-max(lengths) // engine.info.block_size)
    last = [np.arange(end - min(rows, len(tokens)), end) for end, tokens in zip(ends, new, strict=True)]
    plan = StepPlan(
        token_ids=np.concatenate(new).astype(np.int32),
        positions=np.concatenate([np.arange(*span) for span in zip(known, lengths, strict=True)]).astype(np.int32),
        query_starts=np.array([0, *ends], np.int32),
        context_lens=lengths,
        block_tables=np.arange(blocks * len(texts), dtype=np.int32).reshape(blocks, -1).T.copy(),
        logit_rows=np.concatenate(last).astype(np.int32),
        samples=[],
    )
    runtime: Any = engine.runtime
    if isinstance(runtime, CpuRuntime):
        return runtime.forward(plan).copy()
    hidden = runtime.first.forward(plan) if isinstance(runtime, HybridRuntime) else None
    values = (runtime.last if hidden is not None else runtime).logits(plan, hidden)
    return values.cpu().numpy().copy()


@dataclass(frozen=True)
class Answers:
    """Logits of texts that are read in pieces, and then token by token; and greedy answers to them."""

    read: np.ndarray
    decoded: np.ndarray
    tokens: list[list[int]]

    @staticmethod
    def of(engine: Engine, lengths: Sequence[int], decoded: int, pieces: int = 3, rows: int = 32) -> Answers:
        rng = np.random.default_rng(3)
        texts = [rng.integers(0, engine.info.vocab_size, length + decoded) for length in lengths]
        ends = [[length * i // pieces for length in lengths] for i in range(pieces)]
        ends += [[length + i for length in lengths] for i in range(decoded + 1)]
        steps = [
            forward(engine, [text[:end] for text, end in zip(texts, some, strict=True)], known, rows)
            for known, some in pairwise(ends)
        ]
        asked = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
        tokens = greedy(engine, asked, len(asked), decoded)
        return Answers(np.concatenate(steps[:pieces]), np.concatenate(steps[pieces:]), tokens)


def beside(name: str, got: Answers, expected: Answers, tolerance: float) -> Iterator[Row]:
    """`tolerance` as TOLERANCE; 0 asks for the same bits."""
    for part, ours, theirs in (
        ("pieces of prompts", got.read, expected.read),
        ("decoded tokens", got.decoded, expected.decoded),
    ):
        title = f"{name}: logits of {part}, {len(ours)} rows"
        if tolerance:
            yield check(title, relative(ours, theirs), tolerance)
        else:
            yield check(title, int((ours != theirs).any(1).sum()), 0, "{} differ")
    title, alike = f"{name}: greedy answers", sum(a == b for a, b in zip(got.tokens, expected.tokens, strict=True))
    if tolerance:
        yield Row(title, f"{alike} of {len(got.tokens)} are the same")
    else:
        yield check(title, len(got.tokens) - alike, 0, f"{{}} of {len(got.tokens)} differ")


def prompts(vocab: int, count: int, longest: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def greedy(engine: Engine, requests: Sequence[list[int]], together: int, tokens: int) -> list[list[int]]:
    """What each is answered, so many at a time."""
    answers: list[list[int]] = [[] for _ in requests]
    params = SamplingParams(temperature=0, max_tokens=tokens)
    for start in range(0, len(requests), together):
        for index in range(start, min(start + together, len(requests))):
            engine.add(EngineRequest(request_id=f"{index}", prompt=requests[index], params=params, seed=0))
        while engine.busy:
            for chunk in engine.step():
                if chunk.error:
                    raise RuntimeError(chunk.error)
                answers[int(chunk.request_id)] += chunk.tokens
    return answers


def company(engine: Engine, name: str, batches: Sequence[int], longest: int, tokens: int) -> Iterator[Row]:
    """Greedy tokens beside others, against those of the largest batch; of few requests where each is alone."""
    requests = prompts(engine.info.vocab_size, max(batches), longest)
    expected = greedy(engine, requests, max(batches), tokens)
    for batch in sorted(batches)[:-1]:
        some = requests[: max(8, batch)]
        different = sum(a != b for a, b in zip(greedy(engine, some, batch, tokens), expected, strict=False))
        yield check(
            f"{name}: greedy tokens, {batch} at a time",
            different,
            0,
            f"{{}} of {len(some)} answers not as {max(batches)} at a time",
        )


def rows(
    model: Path, batches: Sequence[int] = (1, 8, 64), longest: int = 60, tokens: int = 32, **config: Any
) -> Iterator[Row]:
    """The CPU's logits against those of the GPU alone, and of the GPU with half of the layers."""
    settings = {"model": str(model), "enable_prefix_caching": False, "max_num_seqs": max(batches), **config}
    cpu = Engine(EngineConfig(device="cpu", **settings))
    layers = cpu.runtime.info.num_layers
    text = np.random.default_rng(1).integers(0, cpu.info.vocab_size, longest)
    expected = logits(cpu, text)
    requests = prompts(cpu.info.vocab_size, max(batches), longest)
    answers = greedy(cpu, requests, max(batches), tokens)
    cpu.close()
    for name, where in {
        "GPU": {"device": "cuda"},
        f"GPU, {layers // 2} of {layers} layers": {"device": "cuda", "gpu_layers": layers // 2},
    }.items():
        engine = Engine(EngineConfig(**settings, **where))
        got = logits(engine, text)
        yield check(f"{name}: logits beside the CPU's", relative(got, expected), TOLERANCE)
        alike = np.mean([a == b for a, b in zip(greedy(engine, requests, max(batches), tokens), answers, strict=True)])
        yield Row(f"{name}: greedy answers that are the CPU's", f"{alike:.0%} of {len(answers)} x {tokens} tokens")
        yield from company(engine, name, batches, longest, tokens)
        engine.close()


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
