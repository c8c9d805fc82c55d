"""How much of a prompt a step reads: streams wait at most twice as long, whatever decoding and reading take."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.engine.pace import LEAST_TOKENS, QUEUE, REFRESH, SHARE, Pace


class Machine:
    """A step takes `step` seconds, `decode` for each sequence that decodes and `token` for each token of a prompt."""

    def __init__(self, step: float, decode: float, token: float) -> None:
        self.costs = step, decode, token
        self.now = 0.0
        self.pace = Pace(lambda: self.now)

    def run(self, decodes: int, prompts: int = 1, most: int = 10**6) -> tuple[int, float]:
        """One step: the tokens of prompts in it, and the seconds."""
        tokens = min(most, self.pace.allowance(decodes, prompts)) if prompts else 0
        seconds = self.costs[0] + decodes * self.costs[1] + tokens * self.costs[2]
        self.pace.start(decodes, tokens)
        self.now += seconds
        self.pace.stop()
        return tokens, seconds


costs = st.floats(1e-5, 1e-1)


@settings(deadline=None)
@given(costs, costs, st.floats(1e-6, 1e-3), st.integers(1, 64))
def test_a_prompt_at_most_doubles_the_time_between_tokens(step: float, decode: float, token: float, n: int) -> None:
    m = Machine(step, decode, token)
    _, alone = m.run(n, 0)
    taken = [m.run(n) for _ in range(3 * REFRESH)]
    for tokens, seconds in taken:
        assert tokens <= LEAST_TOKENS or seconds <= 2 * alone * 1.001
    # Nothing is left unused either, once it has learnt.
    most = min(10**6, max(LEAST_TOKENS, int(SHARE * alone / token)))
    assert sum(tokens for tokens, _ in taken[REFRESH:]) >= 0.9 * 2 * REFRESH * most


def test_many_waiting_prompts_have_a_part_by_their_number() -> None:
    m = Machine(0.01, 0.0, 1e-4)
    m.run(16, 0)
    for _ in range(REFRESH - 1):
        tokens, _ = m.run(16, 7)
    assert tokens == pytest.approx(100 * SHARE * (1 + QUEUE * 6), abs=2)


@pytest.mark.parametrize("decodes", [lambda i: 8, lambda i: 2**i % 1000 + 1, lambda i: 1])
@pytest.mark.parametrize("costs", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
def test_prompts_go_on_in_one_of_two_steps_at_least(decodes, costs: tuple[float, float, float]) -> None:
    m = Machine(*costs)
    tokens = [m.run(decodes(i))[0] for i in range(100)]
    assert all(first or second for first, second in pairwise(tokens))
    assert all(count == 0 or count >= LEAST_TOKENS for count in tokens)


def test_it_follows_when_the_cost_changes() -> None:
    m = Machine(0.01, 0.0, 1e-4)
    m.run(8, 0)
    for _ in range(20):
        m.run(8)
    m.costs = 0.02, 0.0, 4e-4
    for _ in range(6 * REFRESH):
        tokens, seconds = m.run(8)
    assert tokens == pytest.approx(50 * SHARE, abs=3)
    assert seconds <= 0.0405


def test_steps_that_overlap_are_timed_from_the_end_of_the_one_before() -> None:
    """The times are 4 and 6 seconds for 2 decodes, then 9 for 30 tokens more, whether or not the next has begun."""
    learned = []
    for ahead in (False, True):
        m = Machine(0, 0, 0)
        begun = 0
        for number, seconds in enumerate((4, 6, 9)):
            while begun <= min(number + ahead, 2):
                m.pace.start(2, (0, 0, 30)[begun])
                begun += 1
            m.now += seconds
            m.pace.stop()
        learned.append([m.pace.allowance(2, prompts) for prompts in (1, 2, 5)])
    assert learned[0] == learned[1]
    assert learned[0][0] == int(0.9 * 5 / (4 / 30))
