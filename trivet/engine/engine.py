"""A runtime and a scheduler, and the step that joins them."""

from __future__ import annotations

import logging
import pkgutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from trivet.engine.archive import BlockArchive
from trivet.engine.blocks import salt_of
from trivet.engine.config import EngineConfig
from trivet.engine.memory import check_sizes, size_cache
from trivet.engine.messages import StoreCommand, Stored
from trivet.engine.plan import StepOutput, StepPlan
from trivet.engine.request import EngineRequest, EngineStats, ModelInfo, TokenChunk
from trivet.engine.scheduler import Scheduler
from trivet.engine.steps import StepHistograms
from trivet.engine.store import PrefixStore
from trivet.errors import DeviceLostError, EngineError, RequestError
from trivet.runtime.base import OverlappingRuntime, Pending, Runtime
from trivet.runtime.machine import lock_memory

logger = logging.getLogger(__name__)

RuntimeLoader = Callable[[EngineConfig], Runtime]

LOAD_RUNTIME = "trivet.runtime.loader:load_runtime"
"""The RuntimeLoader, as module:function, that an engine uses unless told otherwise."""


@dataclass(slots=True)
class _Step:
    """A step between its schedule and its commit."""

    plan: StepPlan
    admitted: int
    began: float
    scheduled: float
    pending: Pending | None = None
    """None where the runtime is to run it yet."""
    error: Exception | None = None
    """What it failed with already."""

    def abandon(self, error: Exception) -> None:
        """The step before has failed, which this one builds upon."""
        if self.pending is not None:
            with suppress(Exception):
                self.pending.result()
        self.pending, self.error = None, error


class Engine:
    """Not thread-safe: one thread adds, cancels and steps; only `stats` may be called from others.

    Where the runtime's device works beside the host, a step is planned and started while the one before runs.
    """

    def __init__(self, config: EngineConfig, load: RuntimeLoader | str = LOAD_RUNTIME) -> None:
        """Loads the model. Raises ModelError, or EngineError for a wrong setting and when the cache does not fit."""
        loader: RuntimeLoader = pkgutil.resolve_name(load) if isinstance(load, str) else load
        check_sizes(config)
        self.runtime = loader(config)
        self._archive: BlockArchive | None = None
        try:
            max_model_len, num_blocks = size_cache(config, self.runtime)
            self.runtime.allocate_cache(num_blocks, config.block_size)
            if config.mlock:
                lock_memory()
            if config.prefix_cache_dir is not None and config.enable_prefix_caching:
                self._archive = BlockArchive(
                    self.runtime, config.block_size, Path(config.prefix_cache_dir), config.prefix_cache_size
                )
        except BaseException:
            self.runtime.close()  # The process may go on, and the next model needs the memory.
            raise
        sized = msgspec.structs.replace(config, max_model_len=max_model_len)
        self.scheduler = Scheduler(sized, num_blocks, self._archive)
        self._store = PrefixStore(self.runtime, self.scheduler.pool, config.block_size, self._archive)
        self._histograms = StepHistograms(config.max_num_seqs)
        self._start = self.runtime.start if isinstance(self.runtime, OverlappingRuntime) else None
        self._ahead: _Step | None = None
        """In flight, while the one before it is committed."""
        self._drawn = np.empty(0, np.int32)
        """The tokens of the latest step that was committed."""
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
        return self.scheduler.busy or self._ahead is not None

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises RequestError when it can never run here."""
        self.info.check(request)
        self.scheduler.add(request)

    def cancel(self, request_id: str) -> TokenChunk | None:
        """End a request before the next step; None if it is not there."""
        return self.scheduler.cancel(request_id)

    def step(self) -> list[TokenChunk]:
        """End one step, after the next has been started where that is possible; what it brought to whom.

        Raises DeviceLostError when there can be no further step.
        """
        step, self._ahead = self._ahead or self._begin(), None
        if step is None:
            return []
        if step.pending is not None:
            self._ahead = self._begin()
        return self._end(step)

    def _begin(self) -> _Step | None:
        began = time.perf_counter()
        plan = self.scheduler.schedule()
        if plan is None:
            return None
        step = _Step(plan, self.scheduler.admitted, began, scheduled=time.perf_counter())
        if self._start is not None:
            try:
                step.pending = self._start(plan)
            except Exception as error:
                step.error = error
        return step

    def _end(self, step: _Step) -> list[TokenChunk]:
        plan, failures = step.plan, dict[int, str]()
        sequences, tokens = len(plan.context_lens), self.scheduler.tokens_done
        try:
            if step.error is not None:
                raise step.error
            output = self.runtime.run(plan) if step.pending is None else step.pending.result()
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("a step of %d sequences failed; trying each alone", sequences)
            step.error = error
            if self._ahead is not None:
                self._ahead.abandon(error)
            output = self._run_apart(plan.resolve(self._drawn), failures)
        ran = time.perf_counter()
        chunks = self.scheduler.commit(output, failures)
        self._drawn = output.tokens
        self._histograms.add(
            prefill=len(plan.token_ids) > sequences,
            sequences=sequences,
            admitted=step.admitted,
            tokens=self.scheduler.tokens_done - tokens,
            failed=step.error is not None,
            times=(step.began, step.scheduled, ran, time.perf_counter()),
        )
        return chunks

    def store(self, command: StoreCommand) -> Stored:
        """Save, load or drop cached blocks. What goes wrong is in the answer, but for DeviceLostError."""
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
        except DeviceLostError:
            raise
        except RequestError as error:
            return Stored(command.number, error=str(error))
        except Exception as error:
            logger.exception("could not %s cached blocks", command.action)
            return Stored(command.number, error=f"could not {command.action} cached blocks: {error}")

    def stats(self) -> EngineStats:
        stats = self.scheduler.stats()
        stats.histograms = bytes(self._histograms)
        return stats

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.abandon(EngineError("the engine is closed"))
        if self._archive is not None:
            self._archive.close()
        self.runtime.close()

    def _run_apart(self, plan: StepPlan, failures: dict[int, str]) -> StepOutput:
        """Run each sequence of a failed plan alone, so that only the guilty one fails.

        Those that have ended since are left out: others may have their blocks by now.
        """
        joined = StepOutput(np.empty(0, np.int32), [], [])
        for index, alive in enumerate(self.scheduler.alive()):
            part = plan.part(index)
            rows = len(part.samples)
            output = StepOutput(np.zeros(rows, np.int32), [None] * rows, [None] * rows)
            try:
                if alive:
                    output = self.runtime.run(part)
            except DeviceLostError:
                raise
            except Exception as error:
                failures[index] = f"the engine failed at this request: {error}"
            first = len(joined.tokens)
            joined.states |= {first + row: state for row, state in output.states.items()}
            joined.tokens = np.concatenate([joined.tokens, output.tokens])
            joined.logprobs += output.logprobs
            joined.errors += output.errors
        return joined
