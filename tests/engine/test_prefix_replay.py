"""What the prefix cache finds of conversations, against the most that there is to be found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.prefix_replay import ideal_hits, read_trace, replay
from tests.engine.fake import request
from trivet.engine.config import EngineConfig

TRACE = Path(__file__).parents[3] / "shared/data/mooncake-conversation-trace.jsonl"


@pytest.mark.skipif(not TRACE.exists(), reason=f"../shared/data/{TRACE.name} is not there")
def test_conversations_find_nearly_all_that_came_before() -> None:
    requests = read_trace(TRACE, requests=300, scale=16)
    config = EngineConfig(model="", max_model_len=16384)
    ideal = ideal_hits(requests, config.block_size)
    assert ideal > 20_000
    assert replay(requests, config, 20_000, together=8).stats().cached_tokens >= 0.95 * ideal


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=20), st.integers(1, 4))
def test_a_large_cache_finds_all(prompts: list[list[int]], together: int) -> None:
    requests = [request(prompt, f"{i}", max_tokens=1) for i, prompt in enumerate(prompts)]
    config = EngineConfig(model="", max_model_len=64, block_size=2)
    assert replay(requests, config, 1000, together).stats().cached_tokens == ideal_hits(requests, 2)
