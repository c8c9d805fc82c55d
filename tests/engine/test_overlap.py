"""Steps that are planned and started while the one before runs: when that happens, and what comes of failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.engine.fake import VOCAB, FakeRuntime, Flight, Options, OverlappingFake, Result, plain, request
from tests.engine.test_engine import MAX_LEN, configs, engine, on_all_runtimes, requests, run
from trivet.engine.engine import Engine
from trivet.engine.messages import StoreCommand
from trivet.engine.plan import StepPlan
from trivet.engine.request import EngineRequest
from trivet.engine.steps import PHASES, StepHistograms


class Watched(OverlappingFake):
    """Notes what happens: the number of a step where it starts, and where its result comes, negative."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.events: list[int] = []
        self.started: list[StepPlan] = []

    def start(self, plan: StepPlan) -> Flight:
        self.started.append(plan)
        number = len(self.started)
        self.events.append(number)
        flight = super().start(plan)
        take = flight.result

        def result() -> object:
            self.events.append(-number)
            return take()

        flight.result = result  # type: ignore[method-assign, assignment]
        return flight


def test_a_step_starts_before_the_result_of_the_one_before_is_there() -> None:
    e = engine(runtime=Watched)
    r = request([1, 2, 3], max_tokens=4)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.runtime.events == [1, 2, -1, 3, -2, 4, -3, -4]
    assert [plan.token_ids.tolist() for plan in e.runtime.started] == [[1, 2, 3], [-1], [-1], [-1]]


def test_a_placeholder_names_the_row_of_the_step_before() -> None:
    e = engine(runtime=Watched, max_num_batched_tokens=8)
    mix = [request([i] * 3, f"{i}", max_tokens=4 - i) for i in range(3)]
    assert run(e, *mix) == {r.request_id: plain(r, MAX_LEN) for r in mix}
    ids = [plan.token_ids.tolist() for plan in e.runtime.started]
    assert ids == [[0, 0, 0, 1, 1, 1, 2, 2], [-1, -2, 2], [-1, -2, -3], [-1]]


@pytest.mark.parametrize(
    "fields",
    [
        {"mirostat": 2},
        {"adaptive_target": 0.5, "stages": ("temperature", "adaptive_p")},
        {"repetition_penalty": 1.1},
        {"dry_multiplier": 0.5},
        {"watermark": True},
        {"bad_words": ["a"]},
    ],
)
def test_a_choice_that_needs_the_one_before_waits_for_it(fields: dict) -> None:
    e = engine(runtime=Watched)
    bad_words = [[5, 6]] if "bad_words" in fields else []
    run(e, request([1, 2, 3], max_tokens=3, bad_words=bad_words, **({} if bad_words else fields)))
    assert e.runtime.events == [1, -1, 2, -2, 3, -3]


def test_a_prompt_whose_choices_need_the_history_does_not_wait_until_it_is_read() -> None:
    e = engine(runtime=Watched, max_num_batched_tokens=3)
    r = request([*range(9)], max_tokens=2, mirostat=1)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.runtime.events == [1, 2, -1, 3, -2, -3, 4, -4]


def test_prompt_logprobs_wait_only_while_there_are_any() -> None:
    e = engine(runtime=Watched, max_num_batched_tokens=4)
    r = request([*range(7)], max_tokens=3, prompt_logprobs=0)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.runtime.events == [1, -1, 2, -2, 3, 4, -3, -4]


def test_nobody_is_preempted_whom_the_end_of_another_saves() -> None:
    def preemptions(runtime: type[FakeRuntime], length: int) -> int:
        e = engine(runtime=runtime, num_blocks=16)
        mix = [request([1] * 30, "a", max_tokens=30), request([2] * 2, "b", max_tokens=length)]
        assert run(e, *mix) == {r.request_id: plain(r, MAX_LEN) for r in mix}
        return e.stats().preemptions

    for length in range(2, 40):
        assert preemptions(OverlappingFake, length) == preemptions(FakeRuntime, length)


def test_what_ended_in_flight_is_not_waited_for_by_others() -> None:
    """The engine is busy until the row of a sequence that has ended is back, and no block is taken by it."""
    r = request([1, 2, 3], max_tokens=20)
    stop = plain(r, MAX_LEN).tokens[4]
    e = engine(runtime=Watched)
    assert run(e, request([1, 2, 3], max_tokens=20, stop_token_ids=[stop]))["r"].finish_reason == "stop"
    assert e.runtime.events[-3:] == [6, -5, -6]
    assert not e.scheduler.busy
    e.close()


def test_the_times_of_steps_that_overlap_add_up() -> None:
    histograms = StepHistograms(8)
    for times in ((10.0, 11.0, 20.0, 21.0), (12.0, 13.0, 30.0, 31.0), (40.0, 41.0, 43.0, 44.0)):
        histograms.add(prefill=False, sequences=1, admitted=0, tokens=1, failed=False, times=times)
    sums = {phase: histograms.sum(f"{phase} decode") for phase in PHASES}
    assert sums == {"step": 11 + 10 + 4, "schedule": 3, "run": 9 + 10 + 2, "commit": 3}


def test_an_engine_may_be_closed_with_a_step_in_flight() -> None:
    e = engine(runtime=Watched)
    e.add(request([1, 2, 3], max_tokens=20))
    e.step()
    e.close()
    assert e.runtime.flights == []


def outcome(r: EngineRequest, options: Options) -> Result:
    """What comes of a request where some tokens cannot be computed."""
    result = plain(r, MAX_LEN)
    tokens = [*r.prompt, *result.tokens[:-1]]
    wrong = {
        t: f"the engine failed at this request: cannot compute token {t}" for t in (options.fail, options.fail_start)
    }
    wrong[options.nan] = "non-finite logits"
    at = next((i for i, token in enumerate(tokens) if token in wrong), None)
    if at is None:
        return result
    error = wrong[tokens[at]]
    drawn = max(0, at + 1 - len(r.prompt))
    known = result.prompt_logprobs if drawn else None
    logprobs = result.logprobs[:drawn]
    return Result(result.tokens[:drawn], logprobs, known, "error", error)


token = st.integers(0, VOCAB - 1)


@on_all_runtimes
@settings(max_examples=40, deadline=None)
@given(configs, st.lists(requests(), min_size=1, max_size=6, unique_by=id), token, token, token, st.integers(0, 64))
def test_who_breaks_a_step_fails_alone_whatever_is_in_flight(
    runtime: type[FakeRuntime], config: dict, mix: list[EngineRequest], fail: int, start: int, nan: int, spare: int
) -> None:
    options = Options(fail=fail, fail_start=start, nan=nan)
    # Which of two faults in one prompt shows depends on how it is cut.
    assume(all(len({fail, start, nan}.intersection(r.prompt)) < 2 for r in mix) and len({fail, start, nan}) == 3)
    e = engine(options, runtime, num_blocks=-(-(MAX_LEN + spare) // config["block_size"]), **config)
    for number, r in enumerate(mix):
        r.request_id = str(number)
    assert run(e, *mix) == {r.request_id: outcome(r, options) for r in mix}


def test_a_step_that_runs_again_leaves_alone_what_others_have_by_now(tmp_path: Path) -> None:
    bad, prefix = request([8], "bad", max_tokens=9), [7] * 8
    fail = plain(bad, MAX_LEN).tokens[1]
    e = engine(Options(fail=fail), OverlappingFake)
    run(e, request(prefix, "saved", max_tokens=1))
    for number, action in enumerate(("save", "drop")):
        assert e.store(StoreCommand(number, action, prefix, "", str(tmp_path / "prefix"))).error is None
    e.add(request([9, 9], "gone", max_tokens=9))
    e.add(bad)
    e.step()
    e.step()  # in flight is now the step that will fail, with the fourth token of the first block of "gone"
    e.cancel("gone")
    assert e.store(StoreCommand(2, "load", path=str(tmp_path / "prefix"))).error is None
    chunks = e.step()
    assert [(chunk.request_id, chunk.finish_reason) for chunk in chunks] == [("bad", "error")]
    r = request([*prefix, 1], max_tokens=9)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["step", "step", "add", "cancel", "save", "load", "drop"]), min_size=20, max_size=60),
    st.integers(0, 20),
    token,
)
def test_blocks_are_saved_and_loaded_between_steps_in_flight(
    tmp_path_factory, events: list[str], seed: int, fail: int
) -> None:
    """A cache so small that what is loaded takes the places of what has just ended."""
    folder: Path = tmp_path_factory.mktemp("store")
    options = Options(fail=fail)
    e: Engine = engine(options, OverlappingFake, num_blocks=16, max_num_seqs=3)
    prompts = [[i] * 9 + [seed] * 5 for i in range(4)]
    mix: dict[str, EngineRequest] = {}
    results: dict[str, Result] = {}
    tokens = iter(range(10**6))

    def step() -> None:
        for chunk in e.step():
            results[chunk.request_id].add(chunk)
        e.scheduler.check_integrity()

    for event in events:
        number = next(tokens)
        prompt = prompts[number % 4]
        if event == "step":
            step()
        elif event == "add":
            r = mix[f"{number}"] = request(prompt, f"{number}", max_tokens=9, eos_token_ids=list(range(0, VOCAB, 5)))
            results[r.request_id] = Result()
            e.add(r)
        elif event == "cancel":
            for name, result in results.items():
                if result.finish_reason is None:
                    result.add(e.cancel(name))
                    break
        else:
            e.store(StoreCommand(number, event, prompt, "", str(folder / f"{number % 4}")))
    while e.busy:
        step()
    for name, r in mix.items():
        if results[name].finish_reason != "abort":
            assert results[name] == outcome(r, options)
