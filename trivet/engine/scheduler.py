"""Decides what each step computes, and takes in what it brought."""

from __future__ import annotations

import itertools
import math
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping
from operator import attrgetter

import msgspec

from trivet.engine.archive import BlockArchive
from trivet.engine.blocks import BlockPool, salt_of
from trivet.engine.config import EngineConfig
from trivet.engine.pace import Pace
from trivet.engine.parts import Part, plan_step
from trivet.engine.plan import StepOutput, StepPlan
from trivet.engine.prefixes import Prefixes
from trivet.engine.request import EngineRequest, EngineStats, TokenChunk, TokenLogprob
from trivet.engine.sequence import Sequence
from trivet.engine.tables import BlockTables
from trivet.engine.waiting import WaitingQueue
from trivet.errors import RequestError

PROMPT_SHARES = 4
"""While sequences decode, prompts take at most one part in this many of a step; and so many prompts progress side by
side, so that a short one does not wait for a long one."""

RESTORE_SECONDS = 0.02
"""Of a step, for blocks that come from files while sequences decode, which wait for them."""

PROMPT_LOGIT_ROWS = 256
"""Prompt log-probabilities in a step: each takes a row of logits, which for a large vocabulary is half a megabyte."""


class Scheduler:
    """Runs many sequences over one budget of tokens a step and one pool of blocks.

    `schedule` begins a step, `commit` ends the earliest that has begun; one may be scheduled while another is in
    flight. Requests are added and cancelled at any time between. `config.max_model_len` must be set.
    """

    def __init__(
        self, config: EngineConfig, num_blocks: int, archive: BlockArchive | None = None, pace: Pace | None = None
    ) -> None:
        assert config.max_model_len is not None
        self.config = config
        self.block_size = config.block_size
        self.max_len = min(config.max_model_len, num_blocks * config.block_size)
        self.max_running = min(config.max_num_seqs, config.max_num_batched_tokens)
        self.pool = BlockPool(num_blocks)
        self.waiting = WaitingQueue()
        self.prefixes = Prefixes(self.pool, config.block_size, self.waiting.push, archive)
        self.tables = BlockTables(self.max_running)
        self.running: list[Sequence] = []
        """By `Sequence.order`. Parked sequences are neither here nor waiting."""
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = itertools.count()
        self._flights: deque[list[Part]] = deque()
        """The steps that have been scheduled and not committed."""
        self.pace = pace or Pace()
        self._counts = EngineStats(blocks_total=num_blocks)
        self.admitted = 0
        """Sequences that the last `schedule` began, or took up again."""

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._sequences)

    @property
    def tokens_done(self) -> int:
        """Of prompts that have been processed, and generated."""
        return self._counts.prompt_tokens + self._counts.generated_tokens

    def stats(self) -> EngineStats:
        """A snapshot; may be taken from any thread."""
        running = len(self.running)
        return msgspec.structs.replace(
            self._counts,
            running=running,
            waiting=max(0, len(self._sequences) - running),
            deferred=max(0, len(self._sequences) - running - len(self.waiting)),
            blocks_used=self.pool.used,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request that `ModelInfo.check` has passed. Raises RequestError when its id is in use."""
        if request.request_id in self._sequences:
            raise RequestError(f"request id {request.request_id!r} is in use", "request_id")
        max_len = self.max_len
        if request.params.max_tokens is not None:
            max_len = min(max_len, len(request.prompt) + request.params.max_tokens)
        # A prompt that fills the context has a token after it all the same, which takes no place in the cache.
        max_len = max(max_len, len(request.prompt) + 1)
        # Without prefix caching, the sequences of a group still share their prompt, under a salt of their own.
        salt: str | None = salt_of(request.cache_salt)
        if not self.config.enable_prefix_caching:
            salt = None if request.group is None else f"group:{request.group}"
        priority = request.priority if self.config.scheduling_policy == "priority" else 0
        sequence = Sequence(request, (priority, next(self._arrivals)), max_len, salt)
        self._sequences[request.request_id] = sequence
        self.waiting.join(sequence.tenant)
        self.waiting.push(sequence)

    def cancel(self, request_id: str) -> TokenChunk | None:
        """End a request and free its blocks; returns its last chunk, or None if it is not there."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        self._remove(sequence)
        return TokenChunk(request_id=request_id, finish_reason="abort", emitted_at=time.monotonic())

    def schedule(self) -> StepPlan | None:
        """The next step; None when nothing is to be done, or nothing before the step in flight is committed."""
        self.admitted = 0
        flying = bool(self._flights)
        if flying and any(part.delays for part in self._flights[-1]):
            return None
        parts: list[Part] = []
        prompts: list[Sequence] = []
        preemptions = self._counts.preemptions
        index, size = 0, self.block_size
        while index < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[index]
            computed, length = sequence.computed, sequence.num_tokens
            if length - computed > 1:
                prompts.append(sequence)
            elif length < sequence.max_len:  # or else its last token is on the way
                if computed == len(sequence.blocks) * size:
                    if flying and not self.pool.available:
                        return None  # a sequence that ends makes room without preemption
                    if not self._make_room(sequence):
                        break
                parts.append(Part(sequence, 1))
            index += 1
        decodes = len(parts)
        parts += self._share(decodes, prompts, admit=self._counts.preemptions == preemptions)
        if not parts:
            return None
        plan = plan_step(parts, self.tables, size)
        self._flights.append(parts)
        self.pace.start(decodes, len(plan.token_ids) - decodes)
        return plan

    def alive(self) -> list[bool]:
        """Of the sequences of the plan to be committed next: whether anybody still waits for what it brings."""
        return [not part.sequence.ended for part in self._flights[0]]

    def commit(self, output: StepOutput, failures: Mapping[int, str] | None = None) -> list[TokenChunk]:
        """Take in what the earliest step in flight brought; `failures` says why, for each sequence of the plan it
        failed for.
        """
        self.pace.stop()
        parts = self._flights.popleft()
        errors = dict(failures or {})
        if any(output.errors):
            owners = [index for index, part in enumerate(parts) for _ in range(part.rows)]
            errors |= {owner: error for owner, error in zip(owners, output.errors, strict=True) if error}
        chunks: list[TokenChunk] = []
        tokens: list[int] = output.tokens.tolist()
        now = time.monotonic()
        size, states = self.block_size, output.states
        row = generated = 0
        for index, part in enumerate(parts):
            sequence, stop = part.sequence, part.stop
            row += part.rows
            if sequence.ended:
                continue
            if index in errors:
                chunks.append(self._fail(sequence, errors[index], now))
                continue
            if (full := stop // size) > (done := (stop - part.tokens) // size):
                self.prefixes.publish(sequence, done, full)
            if sequence.request.report_progress and stop <= sequence.prompt_len:
                chunks.append(self._progress(sequence, stop, now))
            if sequence.prompt_logprobs is not None:
                sequence.prompt_logprobs += output.logprobs[row - part.rows : row - part.draws]
            if part.draws:
                chunk = self._extend(sequence, stop, tokens[row - 1], output.logprobs[row - 1], now)
                if states and row - 1 in states:
                    chunk.sampler_state = sequence.sampler_state = states[row - 1]
                chunks.append(chunk)
                generated += 1
        self._counts.steps += 1
        self._counts.generated_tokens += generated
        self._counts.sequence_steps += len(parts)
        return chunks

    def check_integrity(self) -> None:
        """Raises EngineError when the blocks in use are not those of the running sequences."""
        self.pool.check_integrity(sequence.blocks for sequence in self.running)

    def _make_room(self, sequence: Sequence) -> bool:
        """Give the sequence a block more; False if it had to give way itself."""
        while not self.pool.available:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        self._append_blocks(sequence, [self.pool.allocate()])
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Free the blocks of a running sequence; it waits, with its tokens, to compute them again.

        No step may be in flight.
        """
        self._stop(sequence)
        self.waiting.push(sequence)
        sequence.preemptions += 1
        self._counts.preemptions += 1

    def _budget(self, decodes: int, prompts: list[Sequence]) -> int:
        """Tokens of prompts in a step."""
        budget = self.config.max_num_batched_tokens
        waiting = len(prompts) + len(self.waiting)
        if not decodes or not waiting:
            return budget - decodes
        budget = min(budget - decodes, max(1, budget // PROMPT_SHARES))
        return min(budget, self.pace.allowance(decodes, waiting))

    def _share(self, decodes: int, prompts: list[Sequence], admit: bool) -> list[Part]:
        """Divide a budget among running prompts and new ones; what short ones leave goes to the first."""
        budget = self._budget(decodes, prompts)
        if budget == 0:
            return []
        if len(prompts) >= PROMPT_SHARES and admit:
            prompts.sort(key=self.waiting.rank)
            first = self.waiting.first
            if first is not None and self.waiting.rank(first) < self.waiting.rank(prompts[PROMPT_SHARES - 1]):
                prompts = prompts[: PROMPT_SHARES - 1]
        places = min(len(self.waiting), self.max_running - len(self.running)) if admit else 0
        share = -(-budget // min(max(len(prompts) + places, 1), PROMPT_SHARES))
        parts: list[Part] = []
        until = time.monotonic() + RESTORE_SECONDS if decodes else math.inf
        rows = PROMPT_LOGIT_ROWS
        for sequence in itertools.chain(prompts, self._admissions() if admit else ()):
            if not self._restore(sequence, until):
                continue
            tokens = min(share, sequence.remaining, budget)
            if sequence.prompt_logprobs is not None:
                tokens = min(tokens, rows)
                rows -= tokens
            if tokens:
                parts.append(Part(sequence, tokens))
            budget -= tokens
            if budget == 0:
                break
        for part in parts:
            if part.sequence.prompt_logprobs is None:
                more = min(budget, part.sequence.remaining - part.tokens)
                part.tokens += more
                budget -= more
        return parts

    def _admissions(self) -> Iterator[Sequence]:
        """Start waiting sequences, in order, while there is room for the whole of the next one."""
        while len(self.running) < self.max_running and (sequence := self.waiting.first) is not None:
            hits = self.prefixes.lookup(sequence)
            if self.prefixes.park(sequence, len(hits)):
                self.waiting.remove(sequence)
                continue
            missing = -(-sequence.num_tokens // self.block_size) - len(hits)
            unused = sum(not self.pool.is_used(block) for block in hits)
            # A block to spare for each of the running: or else the newcomer would soon be preempted again.
            if missing + unused + len(self.running) > self.pool.available:
                return
            self.waiting.remove(sequence)
            self._start(sequence, hits, missing)
            yield sequence

    def _start(self, sequence: Sequence, hits: list[int], missing: int) -> None:
        for block in hits:
            self.pool.share(block)
        insort(self.running, sequence, key=attrgetter("order"))
        sequence.row = self.tables.acquire()
        self._append_blocks(sequence, hits + [self.pool.allocate() for _ in range(missing)])
        sequence.computed = len(hits) * self.block_size
        self.prefixes.promise(sequence, len(hits))
        self.admitted += 1
        if sequence.scheduled_at == 0.0:
            sequence.scheduled_at = time.monotonic()
            sequence.cached_tokens = sequence.computed
            self.waiting.start(sequence.tenant, sequence.remaining)
            self._counts.queried_tokens += sequence.num_tokens
            self._counts.cached_tokens += sequence.computed

    def _restore(self, sequence: Sequence, until: float) -> bool:
        """Whether the sequence has what the archive has of it, and is to be computed from there on."""
        computed = sequence.computed
        whole = self.prefixes.restore(sequence, until)
        if not (sequence.reported or sequence.preemptions):
            sequence.cached_tokens += sequence.computed - computed
            self._counts.cached_tokens += sequence.computed - computed
        return whole

    def _append_blocks(self, sequence: Sequence, blocks: list[int]) -> None:
        self.tables.put(sequence.row, len(sequence.blocks), blocks)
        sequence.blocks += blocks

    def _stop(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks away."""
        self.running.remove(sequence)
        self.prefixes.retract(sequence)
        self.tables.release(sequence.row)
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0
        sequence.row = -1

    def _remove(self, sequence: Sequence) -> None:
        if sequence.row >= 0:
            self._stop(sequence)
        elif sequence.awaited is not None:
            self.prefixes.unpark(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.ended = True
        self.waiting.leave(sequence.tenant)
        del self._sequences[sequence.request.request_id]

    def _fail(self, sequence: Sequence, error: str, now: float) -> TokenChunk:
        self._remove(sequence)
        return TokenChunk(request_id=sequence.request.request_id, finish_reason="error", error=error, emitted_at=now)

    def _progress(self, sequence: Sequence, done: int, now: float) -> TokenChunk:
        return TokenChunk(
            request_id=sequence.request.request_id,
            cached_tokens=sequence.cached_tokens,
            queued_at=sequence.queued_at,
            scheduled_at=sequence.scheduled_at,
            emitted_at=now,
            prompt_done=done,
        )

    def _extend(
        self, sequence: Sequence, place: int, token: int, logprob: TokenLogprob | None, now: float
    ) -> TokenChunk:
        """Have a drawn token in its place, and end the sequence where it is the last."""
        sequence.tokens[place] = token
        if place + 1 == sequence.num_tokens:  # or else a step in flight draws the next
            sequence.last = token
        self.waiting.served[sequence.tenant] += 1
        chunk = TokenChunk(request_id=sequence.request.request_id, tokens=[token], emitted_at=now)
        if logprob is not None and sequence.params.logprobs is not None:
            chunk.logprobs = [logprob]
        if not sequence.reported:
            sequence.reported = True
            self._counts.prompt_tokens += sequence.prompt_len
            chunk.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
            chunk.cached_tokens = sequence.cached_tokens
            chunk.queued_at = sequence.queued_at
            chunk.scheduled_at = sequence.scheduled_at
        if token in sequence.stops and place + 1 >= sequence.min_len:
            chunk.finish_reason = "stop"
            chunk.stop_token = token
        elif place + 1 >= sequence.max_len:
            chunk.finish_reason = "length"
        if chunk.finish_reason is not None:
            chunk.preemptions = sequence.preemptions
            self._remove(sequence)
        return chunk
