"""How much of a prompt a step reads: streams wait at most twice as long, whatever decoding and reading take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.engine.pace import LEAST_TOKENS, LONGEST_WAIT, QUEUE, REFRESH, SHARE, Pace


class Machine:
    """A step takes `step` seconds, `decode` for each sequence that decodes, `piece` when it reads any of a prompt, and
    `token` for each token of that."""

    def __init__(self, step: float, decode: float, token: float, piece: float = 0.0) -> None:
        self.costs = step, decode, token, piece
        self.now = 0.0
        self.pace = Pace(lambda: self.now)

    def run(self, decodes: int, prompts: int = 1, most: int = 10**6) -> tuple[int, float]:
        """One step: the tokens of prompts in it, and the seconds."""
        tokens = min(most, self.pace.allowance(decodes, prompts)) if prompts else 0
        step, decode, token, piece = self.costs
        seconds = step + decodes * decode + tokens * token + (piece if tokens else 0)
        self.pace.start(decodes, tokens)
        self.now += seconds
        self.pace.stop()
        return tokens, seconds


costs = st.floats(1e-5, 1e-1)


@given(costs, costs, st.floats(1e-6, 1e-3), st.floats(0, 1e-1), st.integers(1, 64))
def test_a_prompt_at_most_doubles_the_mean_time_between_tokens(
    step: float, decode: float, token: float, piece: float, n: int
) -> None:
    m = Machine(step, decode, token, piece)
    _, alone = m.run(n, 0)
    taken = [m.run(n) for _ in range(8 * REFRESH)]
    least = LEAST_TOKENS * token + piece
    pieces = sum(tokens > 0 for tokens, _ in taken)
    if least > LONGEST_WAIT * SHARE * alone:
        assert all(tokens in (0, LEAST_TOKENS) for tokens, _ in taken)
        assert pieces >= len(taken) // (LONGEST_WAIT + 2)
        return
    for stop in range(1, len(taken)):
        window = [seconds for _, seconds in taken[max(0, stop - 2 * REFRESH) : stop]]
        assert sum(window) <= 2 * alone * len(window) + least
    # Nothing is left unused either, once it has learnt.
    spent = sum(seconds - alone for _, seconds in taken[REFRESH:])
    assert spent >= 0.85 * min(SHARE * alone, 10**6 * token) * 7 * REFRESH - least


def test_many_waiting_prompts_have_a_part_by_their_number() -> None:
    m = Machine(0.01, 0.0, 1e-4)
    m.run(16, 0)
    for _ in range(REFRESH - 1):
        tokens, _ = m.run(16, 7)
    assert tokens == pytest.approx(100 * SHARE * (1 + QUEUE * 6), abs=2)


@pytest.mark.parametrize("decodes", [lambda i: 8, lambda i: 2**i % 1000 + 1, lambda i: 1])
@pytest.mark.parametrize("costs", [(0, 0, 0, 0), (0, 0, 1, 0), (1, 1, 0, 0), (1e-6, 0, 0, 1)])
def test_prompts_do_not_wait_for_long(decodes, costs: tuple[float, float, float, float]) -> None:
    m = Machine(*costs)
    tokens = [m.run(decodes(i))[0] for i in range(200)]
    assert all(any(tokens[i : i + LONGEST_WAIT + 2]) for i in range(200 - LONGEST_WAIT - 2))
    assert all(count == 0 or count >= LEAST_TOKENS for count in tokens)


def test_it_follows_when_the_cost_changes() -> None:
    m = Machine(0.01, 0.0, 1e-4)
    m.run(8, 0)
    for _ in range(20):
        m.run(8)
    m.costs = 0.02, 0.0, 4e-4, 0.0
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
    assert learned[0][0] == 34  # 0.9 * 5 / (4 / 30), rounded up
