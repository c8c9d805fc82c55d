"""A runtime and a scheduler, and the step that joins them."""

from __future__ import annotations

import logging
import pkgutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from trivet.engine.archive import BlockArchive
from trivet.engine.blocks import salt_of
from trivet.engine.config import EngineConfig
from trivet.engine.memory import size_cache
from trivet.engine.messages import StoreCommand, Stored
from trivet.engine.plan import StepOutput, StepPlan
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk
from trivet.engine.scheduler import Scheduler
from trivet.engine.steps import StepHistograms
from trivet.engine.store import PrefixStore
from trivet.errors import RequestError
from trivet.runtime.base import Runtime
from trivet.runtime.machine import lock_memory

logger = logging.getLogger(__name__)

RuntimeLoader = Callable[[EngineConfig], Runtime]

LOAD_RUNTIME = "trivet.runtime.loader:load_runtime"
"""The RuntimeLoader, as module:function, that an engine uses unless told otherwise."""


class Engine:
    """Not thread-safe: one thread adds, cancels and steps; only `stats` may be called from others."""

    def __init__(self, config: EngineConfig, load: RuntimeLoader | str = LOAD_RUNTIME) -> None:
        """Loads the model. Raises ModelError, or EngineError when the cache does not fit."""
        loader: RuntimeLoader = pkgutil.resolve_name(load) if isinstance(load, str) else load
        self.runtime = loader(config)
        max_model_len, num_blocks = size_cache(config, self.runtime)
        self.runtime.allocate_cache(num_blocks, config.block_size)
        if config.mlock:
            lock_memory()
        self._archive: BlockArchive | None = None
        if config.prefix_cache_dir is not None and config.enable_prefix_caching:
            self._archive = BlockArchive(
                self.runtime, config.block_size, Path(config.prefix_cache_dir), config.prefix_cache_size
            )
        sized = msgspec.structs.replace(config, max_model_len=max_model_len)
        self.scheduler = Scheduler(sized, num_blocks, self._archive)
        self._store = PrefixStore(self.runtime, self.scheduler.pool, config.block_size, self._archive)
        self._histograms = StepHistograms(config.max_num_seqs)
        model = self.runtime.info
        self.info = ModelInfo(
            name=model.name,
            architecture=model.architecture,
            device=model.device,
            dtype=model.dtype,
            vocab_size=model.vocab_size,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            block_size=config.block_size,
            max_num_seqs=config.max_num_seqs,
            max_queue=config.max_queue,
            max_num_batched_tokens=config.max_num_batched_tokens,
            weight_bytes=model.weight_bytes,
            cache_bytes=num_blocks * self.runtime.block_bytes(config.block_size),
            context_length=model.context_length,
            hidden_size=model.hidden_size,
            num_parameters=model.num_parameters,
            scheduling_policy=config.scheduling_policy,
        )

    @property
    def busy(self) -> bool:
        """Whether a `step` has anything to do."""
        return self.scheduler.busy

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises RequestError when it can never run here."""
        self.info.check(request)
        self.scheduler.add(request)

    def cancel(self, request_id: str) -> TokenChunk | None:
        """End a request before the next step; None if it is not there."""
        return self.scheduler.cancel(request_id)

    def step(self) -> list[TokenChunk]:
        """Compute one step; what it brought to whom."""
        tokens, began = self.scheduler.tokens_done, time.perf_counter()
        plan = self.scheduler.schedule()
        if plan is None:
            return []
        scheduled = time.perf_counter()
        failed, failures = False, dict[int, str]()
        try:
            output = self.runtime.run(plan)
        except Exception:
            logger.exception("a step of %d sequences failed; trying each alone", len(plan.context_lens))
            failed = True
            output = self._run_apart(plan, failures)
        ran = time.perf_counter()
        chunks = self.scheduler.commit(output, failures)
        sequences = len(plan.context_lens)
        self._histograms.add(
            prefill=len(plan.token_ids) > sequences,
            sequences=sequences,
            admitted=self.scheduler.admitted,
            tokens=self.scheduler.tokens_done - tokens,
            failed=failed,
            times=(began, scheduled, ran, time.perf_counter()),
        )
        return chunks

    def store(self, command: StoreCommand) -> Stored:
        """Save, load or drop cached blocks."""
        if not self.scheduler.config.enable_prefix_caching:
            return Stored(command.number, error="prefix caching is off: there are no blocks to save, load or drop")
        salt, path = salt_of(command.cache_salt), Path(command.path)
        try:
            match command.action:
                case "save":
                    return Stored(command.number, *self._store.save(command.tokens, salt, path))
                case "load":
                    return Stored(command.number, *self._store.load(path, salt, self.info.vocab_size))
            return Stored(command.number, self._store.drop(command.tokens, salt))
        except RequestError as error:
            return Stored(command.number, error=str(error))

    def stats(self) -> EngineStats:
        stats = self.scheduler.stats()
        stats.histograms = bytes(self._histograms)
        return stats

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()
        self.runtime.close()

    def _run_apart(self, plan: StepPlan, failures: dict[int, str]) -> StepOutput:
        """Run each sequence of a failed plan alone, so that only the guilty one fails."""
        joined = StepOutput(np.empty(0, np.int32), [], [])
        for index in range(len(plan.context_lens)):
            part = plan.part(index)
            rows = len(part.samples)
            try:
                output = self.runtime.run(part)
            except Exception as error:
                failures[index] = f"the engine failed at this request: {error}"
                output = StepOutput(np.zeros(rows, np.int32), [None] * rows, [None] * rows)
            first = len(joined.tokens)
            joined.states |= {first + row: state for row, state in output.states.items()}
            joined.tokens = np.concatenate([joined.tokens, output.tokens])
            joined.logprobs += output.logprobs
            joined.errors += output.errors
        return joined
