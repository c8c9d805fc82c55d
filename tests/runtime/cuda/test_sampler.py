"""Sampling on the device against the native sampler: the same tokens, states and errors from the same logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtime.cuda.compiled import compiled
from tests.sampling.rows import row
from trivet.engine.plan import SampleRow, StepOutput
from trivet.runtime.cuda import sampler as sampler_module
from trivet.runtime.cuda.sampler import DeviceSampler
from trivet.runtime.cuda.sampling import groups, reports
from trivet.sampling.params import LLAMACPP_STAGES, STAGES, TGI_STAGES, VLLM_STAGES
from trivet.sampling.sampler import sample


def on_device(logits: np.ndarray, rows: list[SampleRow]) -> StepOutput:
    sampler = DeviceSampler(logits.shape[1], "cpu")
    return sampler.sample(torch.from_numpy(logits), sampler.prepare(rows)).collect()


def check(logits: np.ndarray, rows: list[SampleRow]) -> None:
    got, want = on_device(logits, rows), sample(logits, rows)
    assert got.errors == want.errors
    for r, (token, expected) in enumerate(zip(got.tokens.tolist(), want.tokens.tolist(), strict=True)):
        assert token == expected, (r, rows[r].chain.params)
    assert got.states.keys() == want.states.keys()
    for r, state in want.states.items():
        assert got.states[r] == pytest.approx(state, rel=1e-9, abs=1e-9), rows[r].chain.params
    for r, (mine, theirs) in enumerate(zip(got.logprobs, want.logprobs, strict=True)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert (mine.token, mine.rank) == (theirs.token, theirs.rank), rows[r].chain.params
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            assert [t for t, _ in mine.top] == [t for t, _ in theirs.top], rows[r].chain.params
            np.testing.assert_allclose([p for _, p in mine.top], [p for _, p in theirs.top], atol=1e-5)


def random_logits(rng: np.random.Generator, count: int, vocab: int) -> np.ndarray:
    """Smooth ones, some with many ties and some with few likely tokens."""
    x = rng.normal(0, rng.choice([0.5, 2, 6]), (count, vocab))
    style = rng.integers(3)
    if style == 1:
        x = np.round(x)
    elif style == 2:
        x[:, rng.integers(0, vocab, 4)] += 12
    return x.astype(np.float32)


def some(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def random_pieces(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    """Which tokens begin which others, and which end generation; not all of them are in the vocabulary."""
    order = rng.permutation(vocab + 2)
    parents = np.full(vocab + 2, -1, np.int32)
    for i in range(1, vocab + 2):
        if some(rng, 0.7):
            parents[order[i]] = order[rng.integers(max(0, i - rng.choice([2, 10, vocab])), i)]
    return {
        "piece_parents": parents[: vocab + rng.integers(-1, 3)].tobytes() if some(rng, 0.9) else b"",
        "end_tokens": rng.integers(0, vocab + 2, rng.integers(0, 4)).tolist(),
    }


def random_row(rng: np.random.Generator, vocab: int, common: bool = False) -> SampleRow:
    """Any parameters; `common`: those that the kernels do alone."""
    fields: dict[str, Any] = {"temperature": float(rng.choice([0, 0.3, 0.7, 1, 1.5]))}
    stages = [VLLM_STAGES, TGI_STAGES, LLAMACPP_STAGES][rng.integers(3)]
    if not common and some(rng, 0.3):
        stages = tuple(rng.permutation(STAGES)[: rng.integers(1, 12)])
    fields["stages"] = stages
    usual = {
        "top_k": lambda: int(rng.choice([1, 2, 5, 40, vocab])),
        "top_p": lambda: float(rng.choice([0.01, 0.5, 0.9, 0.999])),
        "min_p": lambda: float(rng.choice([0.01, 0.1, 1])),
        "repetition_penalty": lambda: float(rng.choice([0.8, 1.3])),
        "frequency_penalty": lambda: float(rng.normal()),
        "presence_penalty": lambda: float(rng.normal()),
        "penalty_last_n": lambda: int(rng.choice([0, 5, 64])),
        "dry_multiplier": lambda: 0.8,
        "dry_allowed_length": lambda: int(rng.integers(0, 3)),
        "dry_base": lambda: float(rng.choice([1.0, 1.75])),
        "watermark": lambda: True,
        "logit_bias": lambda: {
            int(t): float(rng.choice([-100, -math.inf, 1, 5])) for t in rng.integers(0, vocab + 3, 5)
        },
        "allowed_token_ids": lambda: [int(t) for t in rng.integers(0, vocab + 2, rng.integers(1, 20))],
    }
    rare = {
        "typical_p": lambda: float(rng.choice([0.2, 0.9])),
        "top_n_sigma": lambda: float(rng.choice([0.5, 1, 2])),
        "xtc_probability": lambda: float(rng.choice([0.5, 1])),
        "xtc_threshold": lambda: float(rng.choice([0, 0.05, 0.1, 0.4])),
        "min_keep": lambda: int(rng.integers(0, 9)),
        "dynatemp_range": lambda: float(rng.choice([0.2, 0.7, 2])),
        "dynatemp_exponent": lambda: float(rng.choice([1, 0.5, 2])),
        "mirostat": lambda: int(rng.integers(1, 3)),
        "mirostat_tau": lambda: float(rng.choice([0.5, 3, 5, 9])),
        "adaptive_target": lambda: float(rng.choice([0, 0.2, 0.7])),
    }
    for name, value in usual.items():
        if some(rng, 0.25):
            fields[name] = value()
    if not common:
        for name, value in rare.items():
            if some(rng, 0.12):
                fields[name] = value()
    if some(rng, 0.4):
        fields["logprobs"] = 0 if common else int(rng.choice([0, 1, 5, -1]))
        fields["logprobs_mode"] = ["raw", "processed"][rng.integers(2)]
        if some(rng, 0.2):
            fields["logprob_token_ids"] = [int(t) for t in rng.integers(0, vocab + 2, 3)]
    history = rng.integers(0, min(vocab, 12), rng.integers(0, 60)).tolist()
    tokens: dict[str, Any] = {"dry_breakers": [([3], []), ([4, 5], [6])] if some(rng, 0.5) else []}
    tokens |= random_pieces(rng, vocab) if "infill" in stages else {}
    if some(rng, 0.2):
        tokens["bad_words"] = [[int(rng.integers(vocab))], [*history[-2:], int(rng.integers(vocab))]]
    rest: dict[str, Any] = {}
    if some(rng, 0.1):
        rest["suppressed"] = tuple(rng.integers(0, vocab + 2, 3).tolist())
    if some(rng, 0.1):
        rest["target"] = int(rng.integers(vocab))
        fields["prompt_logprobs"] = int(rng.choice([0, 3, -1]))
    made = row(
        int(rng.integers(-(2**62), 2**62)),
        tuple(history),
        int(rng.integers(0, len(history) + 1)),
        **fields,
        **tokens,
        **rest,
    )
    first = made.chain.native.first_state
    if first and some(rng, 0.7):
        made.state = tuple(float(x) for x in np.array(first) * rng.uniform(0.3, 1))
    return made


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 211, 4500]), st.booleans())
def test_random_rows(seed: int, vocab: int, common: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, vocab, common) for _ in range(4)]
    check(random_logits(rng, len(rows), vocab), rows)


@pytest.mark.parametrize("fields", [{"logit_bias": dict.fromkeys(range(9), 1.0)}, {"presence_penalty": 0.5}])
def test_edits_after_the_first_stage_that_narrows(fields: dict[str, Any]) -> None:
    """Each is done once, of tokens too of which the row says something."""
    fields |= {"top_k": 20, "logprobs": 20, "logprobs_mode": "processed"}
    rows = [row(7, tuple(range(15)), 1, stages=("top_k", "watermark", "penalties"), watermark=True, **fields)]
    check(np.random.default_rng(1).normal(0, 0.5, (1, 20)).astype(np.float32), rows)


def test_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortlists are made of a small part of it, or of nearly all."""
    monkeypatch.setattr(sampler_module, "LIST_BLOCK", 1 << 15)  # fewer steps for the interpreter
    rng = np.random.default_rng(5)
    vocab = 50_000
    fields: list[dict[str, Any]] = [
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.8, "logprobs": 0, "logprobs_mode": "processed"},
        {"top_k": 40, "top_p": 0.9, "temperature": 0.7},
        {"top_p": 0.95, "logprobs": 0, "logprobs_mode": "processed"},
        {"min_p": 0.05, "top_k": 3000, "repetition_penalty": 1.2},
    ]
    rows = [row(i, tuple(rng.integers(0, vocab, 30).tolist()), 10, **f) for i, f in enumerate(fields)]
    check(rng.normal(0, 2.5, (len(rows), vocab)).astype(np.float32), rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_cannot_be_sampled(bad: float) -> None:
    logits = np.zeros((5, 300), np.float32)
    logits[1:4, 77] = bad
    narrow = {"top_k": 2, "top_p": 0.5, "typical_p": 0.5, "top_n_sigma": 1.0, "xtc_probability": 1.0, "mirostat": 2}
    rows = [row(), row(temperature=0), row(logprobs=2, top_p=0.3), row(**narrow), row(allowed_token_ids=[2])]
    rows[4].suppressed = (2,)
    check(logits, rows)
    sampler = DeviceSampler(300, "cpu")
    tokens = sampler.sample(torch.from_numpy(logits), sampler.prepare(rows)).tokens
    assert tokens[1:].tolist() == [0, 0, 0, 0]  # a step may go on from them


@pytest.mark.parametrize("fields", [{}, {"typical_p": 0.5, "top_n_sigma": 1.0}, {"mirostat": 1}])
def test_no_token_left(fields: dict[str, Any]) -> None:
    rows = [row(allowed_token_ids=[2], suppressed=(2,), logprobs=1, logprobs_mode="processed", **fields)]
    check(np.zeros((1, 100), np.float32), rows)


@pytest.mark.parametrize("equal", [3, 50])
@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0.9}, {"suppressed": (4,)}])
def test_ties_are_reported_beyond_the_number_asked_for(equal: int, fields: dict[str, Any]) -> None:
    logits = np.linspace(-3, 0, 100, dtype=np.float32)[None]
    logits[0, :equal] = 1
    check(logits, [row(logprobs=2, logprobs_mode="processed", stages=TGI_STAGES, **fields)])


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 40, 600]))
def test_infill(seed: int, vocab: int) -> None:
    """With ends that are likely enough to decide and others, and texts that are kept or begin those that are."""
    rng = np.random.default_rng(seed)
    rows = []
    logits = random_logits(rng, 8, vocab)
    for r in range(8):
        pieces = random_pieces(rng, vocab)
        known = [token for token in pieces["end_tokens"] if token < vocab]
        logits[r, known] = rng.choice([-12, -4, 0, 2])
        narrow = {"top_k": 8} if some(rng, 0.5) else {}
        stages = ("infill", "temperature", "top_k") if some(rng, 0.2) else ("top_k", "temperature", "infill")
        suppressed = tuple(known[:1]) if some(rng, 0.2) else ()
        processed = {"logprobs": 9, "logprobs_mode": "processed"}
        rows.append(row(seed + r, stages=stages, suppressed=suppressed, **processed, **narrow, **pieces))
    check(logits, rows)


def test_tables_for_infill_are_sent_once() -> None:
    sampler = DeviceSampler(100, "meta")
    rows = [row(seed, stages=("infill",), piece_parents=b"\xff" * 400) for seed in range(2)]
    again = [row(seed, stages=("infill",), piece_parents=bytes([255] * 400)) for seed in range(2)]
    batches = [sampler.prepare(rows), sampler.prepare(again)]
    assert batches[0].groups[0].pieces is batches[1].groups[0].pieces
    assert len(batches[0].groups) == 1


@pytest.mark.parametrize("last", [-1, 0, 3, 50])
@pytest.mark.parametrize("stages", [("penalties", "tgi_penalties"), ("tgi_penalties", "temperature", "penalties")])
def test_penalties_of_both_kinds(last: int, stages: tuple[str, ...]) -> None:
    rng = np.random.default_rng(4)
    factors = {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": 0.3, "penalty_last_n": last}
    rest: dict[str, Any] = {"logprobs": -1, "logprobs_mode": "processed", "temperature": 0.7, "logit_bias": {2: 1.0}}
    histories = [tuple(rng.integers(0, 12, n).tolist()) for n in (0, 1, 40)]
    rows = [row(i, h, len(h) // 2, stages=stages, **factors, **rest) for i, h in enumerate(histories)]
    rows += [row(9, histories[2], 7, stages=(stages[0],), **factors, **rest)]
    check(random_logits(rng, len(rows), 30), rows)


def test_rows_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(11)
    rows = [random_row(rng, 500) for _ in range(5)]
    logits = random_logits(rng, 5, 500)
    together = on_device(logits, rows)
    for r, alone in enumerate(rows):
        assert on_device(logits[r : r + 1], [alone]).tokens[0] == together.tokens[r]


def test_prompt_logprobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ROWS_AT_ONCE", 2)
    counts = [3, -1, 0, 1, 9]
    logits = random_logits(np.random.default_rng(1), len(counts), 40)
    check(logits, [row(target=3, prompt_logprobs=count) for count in counts])


def test_rarer_stages_are_run_on_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "ROWS_AT_ONCE", 2)
    rows = [row(seed, typical_p=0.5, mirostat=seed // 4, logprobs=2, logprobs_mode="processed") for seed in range(6)]
    check(random_logits(np.random.default_rng(2), len(rows), 60), rows)


def test_targets_outside_the_vocabulary() -> None:
    rows = [row(target=100, prompt_logprobs=2, logprobs=1), row(target=99, prompt_logprobs=2, temperature=0)]
    check(random_logits(np.random.default_rng(0), 2, 100), rows)


def test_wrong_shapes() -> None:
    sampler = DeviceSampler(8, "cpu")
    batch = sampler.prepare([row()])
    for shape in ((2, 8), (1, 9)):
        with pytest.raises(ValueError, match="for 1 rows of 8 tokens"):
            sampler.sample(torch.zeros(shape), batch)


@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_compile(arch: int) -> None:
    """On the device "meta" there are no values that a step could wait for."""
    kernels = compiled(lambda: DeviceSampler(128256, "meta").warm_up(), arch)
    assert {kernel.name for kernel in kernels} == {
        *("count_tokens", "mark_tokens", "edit_rows", "edit_tokens", "edit_seen", "finish_rows"),
        *("exponentials", "choose", "report", "sort_keys", "find_likeliest", "merge_masses"),
    }
    for kernel in kernels:
        assert kernel.stack <= 32, kernel
        assert "fma.rn.f32" not in kernel.ptx, f"{kernel} rounds otherwise than the native sampler"
        assert "cp.async" not in kernel.ptx, f"{kernel} loads what it has not stored yet"


def test_a_greedy_step_is_two_launches() -> None:
    sampler = DeviceSampler(128256, "meta")
    logits = torch.empty((64, 128256), device="meta")
    kernels = compiled(lambda: sampler.sample(logits, sampler.prepare([row(temperature=0)] * 64)))
    assert [kernel.name for kernel in kernels] == ["edit_rows", "finish_rows"]
