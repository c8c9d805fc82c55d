"""A line in the log now and then, while there is work."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from trivet.engine.request import EngineStats

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM

logger = logging.getLogger(__name__)
INTERVAL = 10.0
"""Seconds."""


async def log_activity(llm: AsyncLLM) -> None:
    """Runs until cancelled."""
    before, since = llm.stats(), time.monotonic()
    while True:
        await asyncio.sleep(INTERVAL)
        now, at = llm.stats(), time.monotonic()
        if now.steps != before.steps or now.running or now.waiting:
            logger.info(summary(before, now, at - since))
        before, since = now, at


def summary(before: EngineStats, now: EngineStats, seconds: float) -> str:
    """What happened between two snapshots of the engine."""
    queried = now.queried_tokens - before.queried_tokens
    hits = (now.cached_tokens - before.cached_tokens) / queried if queried else 0.0
    usage = now.blocks_used / now.blocks_total if now.blocks_total else 0.0
    return (
        f"running {now.running}, waiting {now.waiting}, "
        f"prompt {(now.prompt_tokens - before.prompt_tokens) / seconds:.1f} tok/s, "
        f"generation {(now.generated_tokens - before.generated_tokens) / seconds:.1f} tok/s, "
        f"KV cache {usage:.1%} used, prefix cache hits {hits:.1%}"
    )
