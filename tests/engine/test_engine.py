"""The engine as a whole: whatever else runs, a request gets the tokens it gets alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.fake import VOCAB, FakeRuntime, Options, OverlappingFake, Result, plain, request
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.pace import Pace
from trivet.engine.plan import StepPlan
from trivet.engine.request import EngineRequest
from trivet.engine.scheduler import Scheduler
from trivet.errors import DeviceLostError, EngineError, RequestError

MAX_LEN = 64


on_all_runtimes = pytest.mark.parametrize("runtime", [FakeRuntime, OverlappingFake])


def engine(options: Options | None = None, runtime: type[FakeRuntime] = FakeRuntime, **config: object) -> Engine:
    defaults: dict[str, object] = {
        "max_model_len": MAX_LEN,
        "block_size": 4,
        "num_blocks": 64,
        "scheduling_policy": "priority",
    }
    return Engine(EngineConfig(model="", **(defaults | config)), lambda _: runtime(options))


def run(e: Engine, *requests: EngineRequest) -> dict[str, Result]:
    for r in requests:
        e.add(r)
    results = {r.request_id: Result() for r in requests}
    while e.busy:
        for chunk in e.step():
            results[chunk.request_id].add(chunk)
        e.scheduler.check_integrity()
    assert e.stats().blocks_used == 0
    return results


@on_all_runtimes
def test_progress_is_reported_where_it_is_wanted(runtime: type[FakeRuntime]) -> None:
    e = engine(runtime=runtime, max_num_batched_tokens=8)
    for name, wanted in (("a", True), ("b", False)):
        e.add(request([*range(19)], name, max_tokens=2, report_progress=wanted, cache_salt=name))
    chunks = [chunk for chunk in iter(lambda: e.step() if e.busy else None, None) for chunk in chunk]
    done = [chunk.prompt_done for chunk in chunks if chunk.prompt_done]
    assert all(chunk.request_id == "a" and not chunk.tokens for chunk in chunks if chunk.prompt_done)
    assert done == sorted(set(done)) and done[-1] == 19 and len(done) > 2
    assert sum(len(chunk.tokens) for chunk in chunks) == 4


BASES = [[1] * 40, [1] * 7 + [2] * 33, [3, 4] * 20]

prompts = st.builds(
    lambda base, length, tail: base[:length] + tail,
    st.sampled_from(BASES),
    st.integers(0, 40),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.just(0),
        "seed": st.integers(0, 3),
        "max_tokens": st.integers(1, 20) | st.none(),
        "eos_token_ids": st.just(list(range(0, VOCAB, 9))),
        "stop_token_ids": st.just(list(range(1, VOCAB, 9))),
        "ignore_eos": st.booleans(),
        "logprobs": st.just(0),
        "mirostat": st.just(2),
        "prompt_logprobs": st.just(0),
        "priority": st.integers(0, 1),
        "tenant": st.sampled_from("tu"),
        "group": st.sampled_from("gh"),
        "cache_salt": st.just("s"),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    chosen = draw(fields)
    limit = chosen.get("max_tokens", 16)
    chosen["min_tokens"] = draw(st.integers(0, min(limit or 8, 8)))
    return request(draw(prompts), **chosen)


configs = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 2, 4, 16]),
        "max_num_batched_tokens": st.integers(1, 50),
        "max_num_seqs": st.integers(1, 6),
        "enable_prefix_caching": st.booleans(),
        "scheduling_policy": st.just("priority"),
    }
)
durations = st.lists(st.sampled_from([0.0, 1e-4, 1e-3, 0.1, 10.0]), min_size=1, max_size=8)
"""Of steps, again and again: they decide how prompts are cut."""


def paced(e: Engine, seconds: list[float]) -> Engine:
    """Have the steps of an engine take these times, as far as its scheduler can tell."""
    clock = itertools.accumulate(x for second in itertools.cycle(seconds) for x in (1.0, second))
    e.scheduler.pace = Pace(lambda: next(clock))
    return e


@on_all_runtimes
@settings(max_examples=80)
@given(
    configs,
    st.integers(0, 64),
    st.lists(st.tuples(requests(), st.integers(0, 3), st.integers(0, 25)), min_size=1, max_size=10),
    durations,
)
def test_a_request_gets_the_same_in_any_company(
    runtime: type[FakeRuntime],
    config: dict,
    spare_tokens: int,
    mix: list[tuple[EngineRequest, int, int]],
    seconds: list[float],
) -> None:
    """Requests come a few steps apart; some are cancelled some steps after (where the third number is 1..6)."""
    num_blocks = -(-(MAX_LEN + spare_tokens) // config["block_size"])
    e = paced(engine(runtime=runtime, num_blocks=num_blocks, **config), seconds)
    results: dict[str, Result] = {}
    cancels: dict[int, list[str]] = {}
    step = 0
    arrivals = list(enumerate(mix))
    wait = 0
    while arrivals or e.busy:
        while arrivals and wait == 0:
            number, (r, wait, cancel_after) = arrivals.pop(0)
            r.request_id = str(number)
            e.add(r)
            results[r.request_id] = Result()
            if 1 <= cancel_after <= 6:
                cancels.setdefault(step + cancel_after, []).append(r.request_id)
        wait = max(0, wait - 1)
        for request_id in cancels.pop(step, []):
            chunk = e.cancel(request_id)
            assert (chunk is None) == (results[request_id].finish_reason is not None)
            if chunk is not None:
                results[request_id].add(chunk)
        busy, plans = e.busy, len(e.runtime.plans)
        chunks = e.step()
        assert len(e.runtime.plans) == plans + busy, "the scheduler is stuck"
        for chunk in chunks:
            results[chunk.request_id].add(chunk)
        e.scheduler.check_integrity()
        step += 1
        assert step < 5000
    assert e.stats().blocks_used == 0
    for number, (r, _, _) in enumerate(mix):
        result, reference = results[str(number)], plain(r, MAX_LEN)
        if result.finish_reason == "abort":
            assert reference.tokens[: len(result.tokens)] == result.tokens
        else:
            assert result == reference


@on_all_runtimes
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("budget", [3, 64])
def test_preemption_at_every_turn_changes_nothing(runtime: type[FakeRuntime], block_size: int, budget: int) -> None:
    config = {"num_blocks": MAX_LEN // block_size, "block_size": block_size, "max_num_batched_tokens": budget}
    e = engine(runtime=runtime, max_num_seqs=5, **config)
    many = [request([i] * (3 + i), f"{i}", max_tokens=50 - i, prompt_logprobs=0, mirostat=i % 3) for i in range(5)]
    results = run(e, *many)
    assert e.stats().preemptions > 1
    for r in many:
        assert results[r.request_id] == plain(r, MAX_LEN)


class Preempting(Scheduler):
    """Takes the blocks of some running sequence away before each of many steps, as if the cache were full."""

    STEPS = 400
    """Without an end, those that lose what they read could take all that a step may read of prompts for ever."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.turn = 0

    def schedule(self) -> StepPlan | None:
        if self._flights and self.turn % 3:
            return None  # what is in flight is not preempted
        if self._flights:
            return super().schedule()
        # One at a time goes on undisturbed, for a while: without, nobody would ever get past a prompt of two steps.
        self.turn += 1
        for sequence in [q for q in self.running if (q.order[1] + self.turn // 40) % 4 and self.turn < self.STEPS]:
            self._preempt(sequence)
        return super().schedule()


@on_all_runtimes
@settings(max_examples=25)
@given(configs, st.lists(requests(), min_size=1, max_size=6), durations)
def test_preemption_before_every_step_changes_nothing(
    runtime: type[FakeRuntime], config: dict, mix: list[EngineRequest], seconds: list[float]
) -> None:
    e = engine(runtime=runtime, num_blocks=-(-2 * MAX_LEN // config["block_size"]), **config)
    e.scheduler = Preempting(e.scheduler.config, e.scheduler.pool.num_blocks)
    paced(e, seconds)
    for number, r in enumerate(mix):
        r.request_id = str(number)
    assert run(e, *mix) == {r.request_id: plain(r, MAX_LEN) for r in mix}


@on_all_runtimes
@settings(max_examples=40)
@given(configs, configs, st.lists(requests(), min_size=1, max_size=6), st.integers(0, 40))
def test_a_restart_at_any_step_changes_nothing(
    runtime: type[FakeRuntime], config: dict, other: dict, mix: list[EngineRequest], steps: int
) -> None:
    """Another engine, set up otherwise, goes on with what the first had sent."""
    results = {}
    e = engine(runtime=runtime, num_blocks=-(-MAX_LEN // config["block_size"]), **config)
    for number, r in enumerate(mix):
        r.request_id = str(number)
        results[r.request_id] = Result()
        e.add(r)
    states: dict[str, tuple[float, ...]] = {}
    for _ in range(steps):
        for chunk in e.step():
            results[chunk.request_id].add(chunk)
            states[chunk.request_id] = chunk.sampler_state
    e = engine(runtime=runtime, num_blocks=-(-MAX_LEN // other["block_size"]), **other)
    for r in mix:
        result = results[r.request_id]
        if result.finish_reason is None:
            state = states.get(r.request_id, ())
            e.add(msgspec.structs.replace(r, generated=list(result.tokens), sampler_state=state))
    while e.busy:
        for chunk in e.step():
            results[chunk.request_id].add(chunk)
        e.scheduler.check_integrity()
    assert results == {r.request_id: plain(r, MAX_LEN) for r in mix}


@on_all_runtimes
def test_a_resumed_request_continues_where_it_was(runtime: type[FakeRuntime]) -> None:
    fields = {"max_tokens": 12, "seed": 5, "min_tokens": 3, "prompt_logprobs": 0, "mirostat": 2}
    tokens = plain(request([1, 2, 3], **fields), MAX_LEN).tokens
    state: tuple[float, ...] = ()
    for done in range(len(tokens)):
        rest = request([1, 2, 3], generated=tokens[:done], sampler_state=state, **fields)
        e = engine(runtime=runtime)
        e.add(rest)
        (first,) = e.step()
        result = Result()
        result.add(first)
        while e.busy:
            result.add(*e.step())
        assert tokens[:done] + result.tokens == tokens
        # What the first chunk brings was brought by an earlier engine.
        assert (result.prompt_logprobs is None) == (first.queued_at == 0) == (done > 0)
        assert len(e.runtime.plans[0].samples) == (3 if done == 0 else 1)
        state = first.sampler_state


@on_all_runtimes
@pytest.mark.parametrize(
    ("options", "error"),
    [(Options(fail=13), "cannot compute token 13"), (Options(nan=13), "non-finite logits")],
)
def test_a_request_that_breaks_a_step_fails_alone(runtime: type[FakeRuntime], options: Options, error: str) -> None:
    e = engine(options, runtime, num_blocks=256)
    good = [request([i] * 20, f"{i}", max_tokens=8, prompt_logprobs=0, mirostat=2) for i in range(3)]
    good = [r for r in good if 13 not in plain(r, MAX_LEN).tokens]
    results = run(e, good[0], request([9, 13, 9], "bad"), *good[1:])
    assert results["bad"].finish_reason == "error"
    assert error in results["bad"].error
    assert results["bad"].tokens == []
    for r in good:
        assert results[r.request_id] == plain(r, MAX_LEN)
    assert run(e, good[0])[good[0].request_id] == plain(good[0], MAX_LEN)


@on_all_runtimes
@pytest.mark.parametrize("alone", [False, True])
def test_where_the_device_is_lost_no_step_is_tried_again(runtime: type[FakeRuntime], alone: bool) -> None:
    e = engine(Options(lose=13, fail=-1 if alone else 9), runtime, num_blocks=256)
    with pytest.raises(DeviceLostError, match="the device is lost"):
        run(e, request([9, 8] if not alone else [7], "other"), request([1, 13], "bad"))


@on_all_runtimes
def test_a_prompt_that_fills_the_context_has_room_for_one_token(runtime: type[FakeRuntime]) -> None:
    whole = request([*range(MAX_LEN)], max_tokens=1, prompt_logprobs=0)
    assert run(engine(runtime=runtime, num_blocks=MAX_LEN // 4), whole) == {"r": plain(whole, MAX_LEN)}


@pytest.mark.parametrize(
    ("r", "parameter", "text"),
    [
        (request([]), "prompt", "at least one token"),
        (request([1] * 65), "prompt", "65 tokens; max_model_len is 64"),
        (request([1] * 64, max_tokens=2), "max_tokens", "max_tokens may be 1"),
        (request([1] * 60, max_tokens=5), "max_tokens", "60 tokens and max_tokens 5 make 65.* may be 4"),
        (request([1, 97]), "prompt", "holds 97; token ids go from 0 to 96"),
        (request([1, -1]), "prompt", "holds -1"),
        (request([1], stop_token_ids=[3, 100]), "stop_token_ids", "holds 100"),
        (request([1], allowed_token_ids=[200]), "allowed_token_ids", "holds 200"),
        (request([1], logit_bias={300: 1.0}), "logit_bias", "holds 300"),
        (request([1], priority=2**63), "priority", "a 64-bit integer, got 9223372036854775808"),
        (request([1], cache_salt="\ud800"), "cache_salt", "must be valid text"),
    ],
)
def test_what_can_never_run_is_refused_with_the_numbers(r: EngineRequest, parameter: str, text: str) -> None:
    e = engine()
    with pytest.raises(RequestError, match=text) as raised:
        e.add(r)
    assert raised.value.parameter == parameter
    assert not e.busy


def test_a_priority_is_refused_where_it_would_mean_nothing() -> None:
    with pytest.raises(RequestError, match="Got priority 3 but Priority scheduling is not enabled"):
        engine(scheduling_policy="fcfs").add(request([1], priority=3))


@pytest.mark.parametrize("length", [63, 1])
def test_the_longest_request_fits_the_smallest_cache(length: int) -> None:
    r = request([1] * length, max_tokens=64 - length)
    assert run(engine(num_blocks=16), r)["r"] == plain(r, MAX_LEN)


KIB = 1024


@pytest.mark.parametrize(
    ("config", "options", "tokens"),
    [
        ({"max_num_seqs": 6}, Options(context_length=1024), 4 * 1024 + 6 * 256),
        ({"max_num_seqs": 2}, Options(context_length=1024), 2 * 1024 + 2 * 256),
        ({"max_num_seqs": 2, "max_model_len": 100}, Options(), 2 * 112 + 2 * 112),
        ({"max_num_seqs": 2}, Options(context_length=1024, memory=20 * KIB), 2048),
        ({"max_num_seqs": 2, "memory_share": 0.5}, Options(context_length=1024, memory=20 * KIB), 1280),
        ({"kv_cache_memory": 4 * KIB}, Options(), 512),
        ({"num_blocks": 20, "kv_cache_memory": 1}, Options(), 320),
    ],
)
def test_the_cache_is_sized_to_need(config: dict, options: Options, tokens: int) -> None:
    info = Engine(EngineConfig(model="", **config), lambda _: FakeRuntime(options)).info
    assert info.num_blocks * info.block_size == tokens
    assert info.cache_bytes == 8 * tokens
    assert info.max_model_len == config.get("max_model_len", options.context_length)


def test_a_context_that_was_not_asked_for_shrinks_to_the_memory() -> None:
    options = Options(context_length=4096, memory=10 * KIB)
    assert Engine(EngineConfig(model=""), lambda _: FakeRuntime(options)).info.max_model_len == 1024


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"max_model_len": 2000},
            "max_model_len 2000 needs 15.62 KiB .* 80% of the free memory allows 8.00 KiB, .* max_model_len 1024",
        ),
        ({"max_model_len": 5000}, "between 2 and the model's context length 4096, got 5000"),
        ({"num_blocks": 100}, "num_blocks 100 asks for .* that is 80 blocks of 16 tokens"),
        ({"kv_cache_memory": 20000}, "kv_cache_memory 20000 asks for"),
        ({"kv_cache_memory": 1}, "max_model_len 4096 needs 32.00 KiB of KV cache; kv_cache_memory 1 allows 0 bytes"),
        ({"num_blocks": 4, "max_model_len": 65}, "num_blocks 4 allows .* max_model_len 64"),
    ],
)
def test_what_does_not_fit_is_refused_at_start(config: dict, text: str) -> None:
    options = Options(context_length=4096, memory=10 * KIB)
    with pytest.raises(EngineError, match=text):
        Engine(EngineConfig(model="", **config), lambda _: FakeRuntime(options))


def test_both_memories_of_a_hybrid_are_named() -> None:
    runtime = FakeRuntime(Options(context_length=4096, memory=10 * KIB))
    runtime.info = replace(runtime.info, partly_dedicated_memory=True)
    text = r"80% of the free memory, on the GPU of what gpu_memory_utilization 0.5 leaves, allows 8.00 KiB"
    with pytest.raises(EngineError, match=text):
        Engine(EngineConfig(model="", max_model_len=2000, gpu_memory_utilization=0.5), lambda _: runtime)


@pytest.mark.parametrize("name", ["block_size", "max_num_seqs", "max_num_batched_tokens"])
@pytest.mark.parametrize("size", [0, -5])
def test_sizes_without_sense_are_refused_before_the_model_is_loaded(name: str, size: int) -> None:
    with pytest.raises(EngineError, match=f"{name} must be at least 1, got {size}"):
        Engine(EngineConfig(model="", **{name: size}), lambda _: pytest.fail("loaded"))


@pytest.mark.parametrize(
    ("place", "config"),
    [("available_bytes", {}), ("allocate_cache", {}), ("identity", {"prefix_cache_dir": "."}), ("", {"num_blocks": 1})],
)
@pytest.mark.parametrize("error", [EngineError, KeyboardInterrupt])
def test_a_start_that_fails_gives_the_model_back(
    place: str, config: dict, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise error

    closed: list[FakeRuntime] = []
    monkeypatch.setattr(FakeRuntime, "close", lambda self: closed.append(self))
    monkeypatch.chdir(tmp_path)
    if place:
        monkeypatch.setattr(FakeRuntime, place, fail)
    runtime = FakeRuntime()
    with pytest.raises(error if place else EngineError):
        Engine(EngineConfig(model="", max_model_len=32, **config), lambda _: runtime)
    assert closed == [runtime]
