"""A runtime without a model: the next token is a hash of all before it, as its own paged cache holds them.

A wrong block table, a block shared wrongly or reused too early, a token not computed: each changes the hash.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np

from trivet.engine.config import EngineConfig
from trivet.engine.plan import SampleRow, StepOutput, StepPlan
from trivet.engine.request import EngineRequest, TokenChunk, TokenLogprob
from trivet.errors import DeviceLostError, EngineError, ModelError
from trivet.runtime.base import RuntimeInfo
from trivet.sampling.params import SamplingParams

VOCAB = 97


class Options(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What goes wrong, and when; `EngineConfig.model` may hold it as JSON.

    crash, hang, fail, lose, nan: token ids; a step that computes that token kills the process, sleeps, raises an
    exception, loses the device, gives no finite logits. fail_start: like fail, but where the token is known, it is the
    start that raises.
    """

    step_seconds: float = 0.0
    load_seconds: float = 0.0
    crash: int = -1
    hang: int = -1
    fail: int = -1
    lose: int = -1
    fail_start: int = VOCAB
    nan: int = -1
    damaged: bool = False
    damaged_if: str = ""
    """A path; the model is damaged once there is a file."""
    keep_plans: bool = True
    context_length: int = 256
    memory: int = 1 << 20
    weights: str = "hash"


class FakeRuntime:
    overlaps = False
    """Whether the last token of a history may not be there yet, where nothing depends on it."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.info = RuntimeInfo(
            name="fake",
            architecture="hash",
            dtype="i64",
            context_length=self.options.context_length,
            device="none",
            weight_bytes=0,
            vocab_size=VOCAB,
            num_layers=1,
        )
        self.plans: list[StepPlan] = []

    def block_bytes(self, block_size: int) -> int:
        return 8 * block_size

    def available_bytes(self) -> int:
        return self.options.memory

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.cache = np.full(num_blocks * block_size, -1, np.int64)

    def run(self, plan: StepPlan) -> StepOutput:
        self._misbehave(plan)
        if self.options.keep_plans:
            self.plans.append(plan)
        assert len(plan.token_ids) == plan.query_starts[-1] == len(plan.positions)
        for name in ("token_ids", "positions", "query_starts", "context_lens", "block_tables", "logit_rows"):
            array = getattr(plan, name)
            assert array.dtype == np.int32 and array.flags.c_contiguous, name
        rows = np.searchsorted(plan.query_starts, np.arange(len(plan.token_ids)), side="right") - 1
        written = self._slots(plan, rows, plan.positions)
        assert len(set(written.tolist())) == len(written), "two tokens of a step share a slot"
        self.cache[written] = plan.token_ids
        assert (np.diff(plan.logit_rows) > 0).all()
        output = StepOutput(np.zeros(len(plan.samples), np.int32), [], [])
        for index, (row, sample) in enumerate(zip(plan.logit_rows, plan.samples, strict=True)):
            positions = np.arange(plan.positions[row] + 1)
            seen = self.cache[self._slots(plan, np.full_like(positions, rows[row]), positions)]
            assert sample.position == len(seen) == len(sample.history)
            known = len(seen) - (self.overlaps and not sample.chain.needs_history)
            assert seen[:known].tolist() == sample.history[:known].tolist()
            output.tokens[index] = token = draw(seen.tolist(), sample)
            if sample.chain.params.mirostat and sample.target < 0:
                output.states[index] = next_state(sample.state, token)
            wanted = sample.chain.params.prompt_logprobs if sample.target >= 0 else sample.chain.params.logprobs
            output.logprobs.append(None if wanted is None else logprob_after(seen.tolist(), token))
            output.errors.append("non-finite logits" if self.options.nan in seen else None)
        return output

    def identity(self) -> dict[str, str]:
        return {"weights": self.options.weights}

    def read_block(self, block: int) -> np.ndarray:
        return self.cache[self._of_block(block)].view(np.uint8)

    def write_block(self, block: int, data: np.ndarray) -> None:
        self.cache[self._of_block(block)] = np.ascontiguousarray(data).view(np.int64)

    def _of_block(self, block: int) -> np.ndarray:
        return np.arange(block * self.block_size, (block + 1) * self.block_size)

    def _slots(self, plan: StepPlan, sequences: np.ndarray, positions: np.ndarray) -> np.ndarray:
        blocks = plan.block_tables[sequences, positions // self.block_size]
        assert (blocks >= 0).all(), "a token without a block"
        return blocks * self.block_size + positions % self.block_size

    def _misbehave(self, plan: StepPlan) -> None:
        time.sleep(self.options.step_seconds)
        if self.options.crash in plan.token_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.hang in plan.token_ids:
            time.sleep(60)
        if self.options.lose in plan.token_ids:
            raise DeviceLostError("the device is lost")
        for token in (self.options.fail, self.options.fail_start):
            if token in plan.token_ids:
                raise EngineError(f"cannot compute token {token}")

    def close(self) -> None:
        pass


class OverlappingFake(FakeRuntime):
    """Steps wait until they are asked for, as on a device that is slower than its host."""

    overlaps = True

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.flights: list[Flight] = []
        self.latest: Flight | None = None

    def start(self, plan: StepPlan) -> Flight:
        if self.options.fail_start in plan.token_ids:
            self.latest = None
            raise EngineError(f"cannot compute token {self.options.fail_start}")
        assert len(self.flights) < 2
        for row, sample in zip(plan.logit_rows, plan.samples, strict=True):
            assert plan.token_ids[row] >= 0 or not sample.chain.needs_history
        unknown = plan.token_ids[plan.token_ids < 0]
        assert not len(unknown) or (self.latest in self.flights and -len(self.latest.plan.samples) <= unknown.min())
        self.latest = Flight(self, plan, self.latest)
        self.flights.append(self.latest)
        return self.latest

    def run(self, plan: StepPlan) -> StepOutput:
        assert not self.flights and (plan.token_ids >= 0).all()
        self.latest = None
        return super().run(plan)

    def finish(self) -> None:
        """Compute all that has been started, in its order."""
        for flight in self.flights:
            flight.compute()

    def read_block(self, block: int) -> np.ndarray:
        self.finish()
        return super().read_block(block)

    def write_block(self, block: int, data: np.ndarray) -> None:
        self.finish()
        super().write_block(block, data)


class Flight:
    """A step of an `OverlappingFake`."""

    def __init__(self, runtime: OverlappingFake, plan: StepPlan, before: Flight | None) -> None:
        self.runtime, self.plan, self.before = runtime, plan, before
        self.output: StepOutput | Exception | None = None

    def compute(self) -> None:
        if self.output is not None:
            return
        before, self.before = self.before, None
        try:
            if before is not None and isinstance(before.output, Exception):
                raise EngineError("the step before has failed")
            plan = self.plan.resolve(np.empty(0, np.int32) if before is None else before.output.tokens)
            self.output = FakeRuntime.run(self.runtime, plan)
        except EngineError as error:
            self.output = error

    def result(self) -> StepOutput:
        assert self.runtime.flights[0] is self, "results are asked for in the order of the steps"
        self.compute()
        self.runtime.flights.pop(0)
        if isinstance(self.output, Exception):
            raise self.output
        assert self.output is not None
        return self.output


def make(config: EngineConfig) -> FakeRuntime:
    options = msgspec.json.decode(config.model, type=Options)
    if options.damaged or (options.damaged_if and Path(options.damaged_if).exists()):
        raise ModelError(f"{options.damaged_if or 'model'}: wrong magic b'XXXX', expected b'GGUF'")
    time.sleep(options.load_seconds)
    return FakeRuntime(options)


def draw(seen: list[int], sample: SampleRow) -> int:
    if sample.target >= 0:
        return sample.target
    params = sample.chain.params
    banned = tuple(token for token, bias in (params.logit_bias or {}).items() if bias == -100)
    return next_token(seen, 0 if params.greedy else sample.seed, sample.suppressed + banned, sample.state)


def next_token(tokens: list[int], seed: int, suppressed: tuple[int, ...], state: tuple[float, ...] = ()) -> int:
    token = crc32(np.array([seed, *tokens], np.int64).tobytes() + np.array(state).tobytes()) % VOCAB
    while token in suppressed:
        token = (token + 1) % VOCAB
    return token


def next_state(state: tuple[float, ...], token: int) -> tuple[float, float]:
    """Where `params.mirostat` is on; no decimal number, so that one written as text would not do."""
    mean, count = state or (1 / 3, 0.0)
    return (mean * 0.9 + token / 7, count + 1)


def logprob_after(tokens: list[int], token: int) -> TokenLogprob:
    return TokenLogprob(token, -crc32(np.array(tokens, np.int64).tobytes()) / 2**32, 1, [])


@dataclass
class Result:
    """All that comes of a request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    error: str | None = None

    def add(self, chunk: TokenChunk) -> None:
        assert self.finish_reason is None, "a chunk after the last"
        self.tokens += chunk.tokens
        self.logprobs += chunk.logprobs or []
        if chunk.prompt_logprobs is not None:
            assert self.prompt_logprobs is None
            self.prompt_logprobs = chunk.prompt_logprobs
        self.finish_reason, self.error = chunk.finish_reason, chunk.error


def plain(request: EngineRequest, max_model_len: int) -> Result:
    """What comes of a request, without an engine."""
    params = request.params
    seed = 0 if params.greedy else request.seed
    stops = set(params.stop_token_ids or ()) | (set() if params.ignore_eos else set(request.eos_token_ids))
    tokens = list(request.prompt)
    state: tuple[float, ...] = ()
    result = Result()
    if params.prompt_logprobs is not None:
        known = [logprob_after(tokens[:i], tokens[i]) for i in range(1, len(tokens))]
        result.prompt_logprobs = [None, *known]
    while result.finish_reason is None:
        early = len(result.tokens) < params.min_tokens
        token = next_token(tokens, seed, tuple(stops) if early else (), state)
        if params.mirostat:
            state = next_state(state, token)
        if params.logprobs is not None:
            result.logprobs.append(logprob_after(tokens, token))
        tokens.append(token)
        result.tokens.append(token)
        if token in stops and len(result.tokens) >= params.min_tokens:
            result.finish_reason = "stop"
        elif len(result.tokens) == params.max_tokens or len(tokens) == max_model_len:
            result.finish_reason = "length"
    return result


def request(prompt: list[int], request_id: str = "r", **fields: object) -> EngineRequest:
    """A request for the fake runtime; fields of EngineRequest or of SamplingParams."""
    of_request = {name: fields.pop(name) for name in EngineRequest.__struct_fields__ if name in fields}
    of_request.setdefault("seed", 7)
    return EngineRequest(request_id=request_id, prompt=prompt, params=SamplingParams(**fields), **of_request)
