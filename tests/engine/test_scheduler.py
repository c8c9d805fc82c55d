"""What the scheduler puts into a step: budget, shares, admission, preemption, priority, sharing of prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.fake import request
from trivet.engine.config import EngineConfig
from trivet.engine.pace import Pace
from trivet.engine.plan import StepOutput, StepPlan
from trivet.engine.request import EngineRequest, TokenChunk
from trivet.engine.scheduler import Scheduler
from trivet.errors import RequestError

EOS = 50


class Unhurried(Pace):
    """Bounds a step by its tokens only."""

    def allowance(self, decodes: int, prompts: int) -> int:
        return 10**6


def scheduler(num_blocks: int = 1000, **config: object) -> Scheduler:
    defaults: dict[str, object] = {
        "max_model_len": 4096,
        "max_num_batched_tokens": 1024,
        "scheduling_policy": "priority",
    }
    return Scheduler(EngineConfig(model="", **(defaults | config)), num_blocks, pace=Unhurried())


def prompt(length: int, first: int = 1) -> list[int]:
    return [first] * length


def step(s: Scheduler, token: int = 10) -> tuple[StepPlan | None, list[TokenChunk]]:
    plan = s.schedule()
    if plan is None:
        return None, []
    rows = len(plan.samples)
    chunks = s.commit(StepOutput(np.full(rows, token, np.int32), [None] * rows, [None] * rows))
    s.check_integrity()
    return plan, chunks


def counts(s: Scheduler) -> list[int]:
    plan, _ = step(s)
    return [] if plan is None else np.diff(plan.query_starts).tolist()


def add(s: Scheduler, *requests: EngineRequest) -> None:
    for r in requests:
        s.add(r)


def test_ten_short_prompts_go_in_one_step() -> None:
    s = scheduler()
    add(s, *(request(prompt(10, i), f"{i}") for i in range(10)))
    plan, chunks = step(s)
    assert np.diff(plan.query_starts).tolist() == [10] * 10
    assert [c.request_id for c in chunks] == [f"{i}" for i in range(10)]
    assert s.stats().waiting == 0
    assert s.stats().running == 10
    assert counts(s) == [1] * 10


def test_plan_of_a_step_with_a_decode_and_two_prompts() -> None:
    s = scheduler(block_size=4, num_blocks=20)
    s.add(request([7] * 12, "before", max_tokens=1))
    step(s)
    s.add(request([1, 2, 3], "a"))
    step(s, token=9)
    add(s, request([4] * 6, "b"), request([5] * 3, "c"))
    plan = s.schedule()
    assert plan.token_ids.tolist() == [9, 4, 4, 4, 4, 4, 4, 5, 5, 5]
    assert plan.positions.tolist() == [3, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert plan.query_starts.tolist() == [0, 1, 7, 10]
    assert plan.context_lens.tolist() == [4, 6, 3]
    assert plan.block_tables.tolist() == [[3, -1], [4, 5], [6, -1]]
    assert plan.logit_rows.tolist() == [0, 6, 9]
    assert [row.history.tolist() for row in plan.samples] == [[1, 2, 3, 9], [4] * 6, [5] * 3]
    assert [(row.position, row.prompt_len, row.seed) for row in plan.samples] == [(4, 3, 7), (6, 6, 7), (3, 3, 7)]


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ([3000], [[1024], [1024], [952], [1]]),
        ([800, 800, 800], [[342, 342, 340], [342, 342, 340], [116, 116, 120]]),
        ([800, 800, 10, 10], [[748, 256, 10, 10]]),
        ([2000, 2000, 2000, 2000, 2000, 5], [[256, 256, 256, 256]]),
    ],
)
def test_prompts_share_a_step(lengths: list[int], steps: list[list[int]]) -> None:
    s = scheduler(max_num_seqs=8)
    add(s, *(request(prompt(n, i), f"{i}") for i, n in enumerate(lengths)))
    assert [counts(s) for _ in steps] == steps


@pytest.mark.parametrize("params", [{}, {"max_tokens": 1}, {"max_tokens": 1, "prompt_logprobs": 0}], ids=str)
@pytest.mark.parametrize("budget", [8, 32, 33])
def test_a_prompt_may_fill_the_context(params: dict, budget: int) -> None:
    s = scheduler(3, block_size=11, max_model_len=33, max_num_batched_tokens=budget)
    s.add(request(prompt(33), "a", **({"max_tokens": None} | params)))
    chunks = [chunk for _ in range(-(-33 // budget)) for chunk in step(s)[1]]
    assert [(c.tokens, c.finish_reason) for c in chunks] == [([10], "length")]
    assert not s.busy


def test_rows_of_prompt_logprobs_are_limited_in_a_step() -> None:
    s = scheduler()
    add(s, *(request(prompt(600, i), f"{i}", prompt_logprobs=0) for i in range(2)), request(prompt(600, 3), "plain"))
    assert [counts(s) for _ in range(3)] == [[256, 600], [1, 128, 128], [1, 128, 128]]


def test_prompts_take_a_quarter_of_a_step_at_most_while_others_decode() -> None:
    s = scheduler()
    s.add(request(prompt(5), "short"))
    step(s)
    s.add(request(prompt(600, 2), "long"))
    assert [counts(s) for _ in range(4)] == [[1, 256], [1, 256], [1, 88], [1, 1]]


def test_no_more_than_max_num_seqs_run() -> None:
    s = scheduler(max_num_seqs=3)
    add(s, *(request(prompt(10, i), f"{i}", max_tokens=2) for i in range(5)))
    assert [counts(s) for _ in range(4)] == [[10] * 3, [1] * 3, [10] * 2, [1] * 2]
    assert not s.busy


def test_decodes_never_exceed_the_budget() -> None:
    s = scheduler(max_num_seqs=64, max_num_batched_tokens=4)
    add(s, *(request(prompt(3, i), f"{i}", max_tokens=5) for i in range(9)))
    while s.busy:
        assert 0 < sum(counts(s)) <= 4


def test_the_latest_is_preempted_and_keeps_its_tokens() -> None:
    s = scheduler(10, max_num_seqs=2)
    add(s, request(prompt(60, 1), "a", max_tokens=60), request(prompt(60, 2), "b", max_tokens=60))
    assert counts(s) == [60, 60]
    while not s.stats().preemptions:
        step(s)
    assert [q.request.request_id for q in s.running] == ["a"]
    (victim,) = s.waiting
    assert victim.num_tokens == 60 + 20 + 1
    finished = []
    while s.busy:
        _, chunks = step(s)
        finished += [(c.request_id, c.preemptions) for c in chunks if c.finish_reason]
    assert finished == [("a", 0), ("b", 1)]
    assert s.pool.available == 10


def test_the_less_urgent_is_preempted_though_it_came_first() -> None:
    s = scheduler(5)
    s.add(request(prompt(30, 1), "low", priority=1, max_tokens=40))
    step(s), step(s)
    s.add(request(prompt(24, 2), "high", priority=0, max_tokens=40))
    step(s)
    assert s.stats().running == 2
    while not s.stats().preemptions:
        step(s)
    assert [q.request.request_id for q in s.running] == ["high"]


@pytest.mark.parametrize("policy", ["priority", "fcfs"])
def test_served_by_priority_then_arrival(policy: str) -> None:
    s = scheduler(max_num_seqs=1, scheduling_policy=policy)
    priorities = [5, 1, 8, 3, 1, 7, 4, 6]
    add(s, *(request(prompt(4, i), f"{i}", priority=p, max_tokens=1) for i, p in enumerate(priorities)))
    order = [int(step(s)[1][0].request_id) for _ in priorities]
    assert order == ([1, 4, 3, 6, 0, 7, 5, 2] if policy == "priority" else list(range(8)))


def served(s: Scheduler) -> str:
    """The first letters of requests, in the order in which they end."""
    order = ""
    while s.busy:
        order += "".join(chunk.request_id[0] for chunk in step(s)[1] if chunk.finish_reason)
    return order


def test_tenants_take_turns_however_many_requests_they_have() -> None:
    s = scheduler(max_num_seqs=1)
    add(s, *(request(prompt(10, i), f"a{i}", tenant="a", max_tokens=3) for i in range(6)))
    add(s, *(request(prompt(10, i + 6), f"b{i}", tenant="b", max_tokens=3) for i in range(3)))
    assert served(s) == "ababab" + "aaa"


def test_turns_are_counted_in_tokens_computed() -> None:
    s = scheduler(max_num_seqs=1)
    add(s, *(request(prompt(40, i), f"a{i}", tenant="a", max_tokens=1) for i in range(3)))
    add(s, *(request(prompt(10, i + 3), f"b{i}", tenant="b", max_tokens=1) for i in range(6)))
    assert served(s) == "abbbbabba"


def test_no_right_is_saved_up_and_priority_goes_before_turns() -> None:
    s = scheduler(max_num_seqs=1)
    add(s, *(request(prompt(10, i), f"a{i}", tenant="a", max_tokens=1) for i in range(9)))
    for _ in range(5):
        step(s)
    add(s, *(request(prompt(10, i + 9), f"b{i}", tenant="b", max_tokens=1) for i in range(4)))
    s.add(request(prompt(10, 20), "c", tenant="a", priority=-1, max_tokens=1))
    assert served(s) == "c" + "bb" + "abab" + "aa"


def test_a_newcomer_does_not_wait_for_the_long_prompts_of_another_tenant() -> None:
    s = scheduler(4000, max_num_seqs=16)
    add(s, *(request(prompt(4000, i), f"a{i}", tenant="a", max_tokens=1) for i in range(8)))
    assert counts(s) == [256] * 4
    s.add(request(prompt(100, 9), "b", tenant="b", max_tokens=1))
    plan, chunks = step(s)
    assert plan.token_ids.tolist().count(9) == 100
    assert [chunk.request_id for chunk in chunks] == ["b"]
    assert sum(counts(s)) == 1024


def test_a_prefix_in_the_cache_is_not_computed_again() -> None:
    s = scheduler()
    s.add(request(prompt(48) + [2] * 7, "a"))
    assert counts(s) == [55]
    s.add(request(prompt(48) + [3] * 5, "b"))
    plan, chunks = step(s)
    assert plan.token_ids.tolist() == [10] + [3] * 5
    assert plan.block_tables[0, :3].tolist() == plan.block_tables[1, :3].tolist()
    assert chunks[1].cached_tokens == 48
    assert (s.stats().queried_tokens, s.stats().cached_tokens, s.stats().prompt_tokens) == (108, 48, 108)


@pytest.mark.parametrize(("length", "computed"), [(16, 16), (17, 1), (48, 16), (49, 1)])
def test_a_hit_leaves_a_token_to_compute(length: int, computed: int) -> None:
    s = scheduler()
    s.add(request(prompt(length), "a", max_tokens=1))
    step(s)
    s.add(request(prompt(length), "b", max_tokens=1))
    assert counts(s) == [computed]


def test_generated_tokens_are_shared_too() -> None:
    s = scheduler(block_size=4)
    s.add(request([1, 2], "a", max_tokens=8))
    while s.busy:
        step(s, token=5)
    s.add(request([1, 2] + [5] * 8 + [6], "b"))
    _, chunks = step(s)
    assert chunks[0].cached_tokens == 8


@pytest.mark.parametrize(
    ("first", "second", "hit"),
    [({}, {"cache_salt": "x"}, 0), ({"cache_salt": "x"}, {"cache_salt": "x"}, 32), ({}, {"prompt_logprobs": 0}, 0)],
)
def test_what_may_be_shared(first: dict, second: dict, hit: int) -> None:
    s = scheduler()
    s.add(request(prompt(40), "a", **first))
    step(s)
    s.add(request(prompt(40), "b", **second))
    plan = s.schedule()
    assert plan.token_ids.tolist() == [10, *prompt(40 - hit)]


@pytest.mark.parametrize("caching", [True, False])
def test_siblings_wait_for_the_first_and_share_its_prompt(caching: bool) -> None:
    s = scheduler(max_num_batched_tokens=32, enable_prefix_caching=caching)
    add(s, *(request(prompt(70), f"{i}", group="g", max_tokens=1) for i in range(3)))
    s.add(request(prompt(70, 2), "other", group="h", max_tokens=1))
    computed = 0
    while s.busy:
        computed += sum(counts(s))
    assert computed == (64 + 6 + 6 + 6) + 70


def test_without_prefix_caching_nothing_is_shared() -> None:
    s = scheduler(enable_prefix_caching=False)
    for name in ("a", "b"):
        s.add(request(prompt(40), name, max_tokens=1))
        assert counts(s) == [40]


def test_a_sequence_waits_for_the_prefix_another_computes_unless_that_is_cancelled() -> None:
    s = scheduler(max_num_batched_tokens=32)
    add(s, request([*prompt(64), 2], "a"), request([*prompt(64), 3], "b"), request([*prompt(64), 4], "c"))
    assert counts(s) == [32]
    assert (s.stats().running, s.stats().waiting) == (1, 2)
    s.cancel("c")
    s.cancel("a")
    assert counts(s) == [32]
    assert s.schedule().token_ids.tolist() == [3]


@pytest.mark.parametrize(
    ("priority", "steps"), [(0, [[8], [8], [8]]), (1, [[8], [8], [8]]), (-1, [[8], [4, 4], [4, 4]])]
)
def test_the_more_urgent_does_not_wait_for_a_prefix_that_the_less_urgent_computes(
    priority: int, steps: list[list[int]]
) -> None:
    s = scheduler(max_num_batched_tokens=8)
    s.add(request([*prompt(64), 2], "a"))
    seen = [counts(s)]
    s.add(request([*prompt(64), 3], "b", priority=priority))
    assert [*seen, counts(s), counts(s)] == steps
    while s.busy:
        step(s)


def test_cancelling_frees_the_blocks_at_once() -> None:
    s = scheduler(10, max_num_seqs=1)
    add(s, request(prompt(40), "a"), request(prompt(40, 2), "b"))
    step(s)
    assert s.pool.used == 3
    assert s.cancel("a").finish_reason == "abort"
    assert s.pool.used == 0
    assert s.cancel("a") is None
    assert s.cancel("b").finish_reason == "abort"
    assert not s.busy
    assert s.schedule() is None


@pytest.mark.parametrize(
    ("tokens", "params", "reason", "stop_token"),
    [
        ([10, EOS], {}, "stop", EOS),
        ([10, 42], {"stop_token_ids": [42, 43]}, "stop", 42),
        ([10, 11], {"max_tokens": 2}, "length", None),
        ([EOS, EOS, 11], {"max_tokens": 3, "ignore_eos": True}, "length", None),
        ([EOS, 42], {"ignore_eos": True, "stop_token_ids": [42]}, "stop", 42),
        ([10, EOS], {"max_tokens": 2}, "stop", EOS),
        ([1, 2, 42, EOS, EOS], {"min_tokens": 5, "stop_token_ids": [42]}, "stop", EOS),
        ([9] * 12, {"max_tokens": None}, "length", None),
    ],
)
def test_how_a_sequence_ends(tokens: list[int], params: dict, reason: str, stop_token: int | None) -> None:
    s = scheduler(max_model_len=16)
    s.add(request(prompt(4), "a", eos_token_ids=[EOS], **({"max_tokens": 10} | params)))
    chunks = [chunk for token in tokens for chunk in step(s, token)[1]]
    assert [c.tokens for c in chunks] == [[t] for t in tokens]
    assert [c.finish_reason for c in chunks] == [None] * (len(tokens) - 1) + [reason]
    assert chunks[-1].stop_token == stop_token
    assert not s.busy


def test_end_tokens_are_suppressed_before_min_tokens() -> None:
    s = scheduler()
    s.add(request(prompt(4), "a", eos_token_ids=[EOS], stop_token_ids=[42], min_tokens=2))
    s.add(request(prompt(4, 2), "b", eos_token_ids=[EOS], ignore_eos=True, stop_token_ids=[42], min_tokens=1))
    seen = []
    for _ in range(3):
        seen.append([row.suppressed for row in s.schedule().samples])
        s.commit(StepOutput(np.full(2, 1, np.int32), [None] * 2, [None] * 2))
    assert seen == [[(42, EOS), (42,)], [(42, EOS), ()], [(), ()]]


def test_a_row_that_cannot_be_sampled_ends_its_request_alone() -> None:
    s = scheduler()
    add(s, request(prompt(20), "a"), request(prompt(20, 2), "b"))
    s.schedule()
    chunks = s.commit(StepOutput(np.full(2, 1, np.int32), [None] * 2, [None, "non-finite logits"]))
    assert [(c.request_id, c.finish_reason, c.error) for c in chunks] == [
        ("a", None, None),
        ("b", "error", "non-finite logits"),
    ]
    assert [q.request.request_id for q in s.running] == ["a"]


def test_a_request_id_is_used_once_at_a_time() -> None:
    s = scheduler()
    s.add(request(prompt(4), "a"))
    with pytest.raises(RequestError, match="'a' is in use"):
        s.add(request(prompt(4), "a"))
