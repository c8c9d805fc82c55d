"""What crosses the border between the API, which holds text, and an engine, which holds tokens."""

from __future__ import annotations

import msgspec

from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams


class EngineRequest(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """One sequence to continue. A request for n sequences is n of these, sharing a `group`.

    `seed` is always set (drawn by the API where the user gave none), so that a resubmitted request continues
    with the same random numbers; `generated` holds the tokens it already has then, and `sampler_state` what their
    sampling left for the next. `bad_words`, `dry_breakers` and `piece_parents` are what the API knows of texts, as
    in `Chain`. `eos_token_ids` end it unless `params.ignore_eos`. Stop strings are the API's affair: it cancels. Lower
    `priority` runs first, where the policy heeds it. Tenants, by opaque names, have equal shares of the engine.
    """

    request_id: str
    prompt: list[int]
    params: SamplingParams
    seed: int
    eos_token_ids: list[int] = []
    generated: list[int] = []
    sampler_state: tuple[float, ...] = ()
    bad_words: list[list[int]] = []
    dry_breakers: list[tuple[list[int], list[int]]] = []
    piece_parents: bytes = b""
    group: str | None = None
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    report_progress: bool = False
    """Send a chunk without tokens, but with `prompt_done`, for each step of the prompt."""


class TokenLogprob(msgspec.Struct, array_like=True, gc=False):
    """Natural log-probabilities at one position: the token's own with its 1-based rank; `top`, best first."""

    token: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class TokenChunk(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """New tokens of one request; exactly one chunk, the last, carries a `finish_reason`.

    finish_reason: "stop" (`stop_token` is the EOS or stop id, the last of `tokens`), "length", "abort"
    (cancelled) or "error" (`error` says why). `sampler_state` goes with the tokens: see EngineRequest.
    `prompt_logprobs` (index 0 is None), `cached_tokens`, `queued_at` and `scheduled_at` come with the first chunk,
    `preemptions` with the last. Times are `time.monotonic` seconds of the engine process; `emitted_at` is the last
    token's, and `first_emitted_at` the first's where there are several.
    """

    request_id: str
    tokens: list[int] = []
    sampler_state: tuple[float, ...] = ()
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    finish_reason: str | None = None
    stop_token: int | None = None
    error: str | None = None
    queued_at: float = 0.0
    scheduled_at: float = 0.0
    first_emitted_at: float = 0.0
    emitted_at: float = 0.0
    prompt_done: int = 0
    """Tokens of the prompt that are in the cache; 0 does not say."""

    def join(self, following: TokenChunk) -> None:
        """Take in the request's next chunk."""
        self.tokens += following.tokens
        if following.logprobs is not None:
            self.logprobs = (self.logprobs or []) + following.logprobs
        self.sampler_state = following.sampler_state
        self.preemptions += following.preemptions
        self.finish_reason, self.stop_token = following.finish_reason, following.stop_token
        self.first_emitted_at = self.first_emitted_at or self.emitted_at
        self.emitted_at = following.emitted_at


class EngineStats(msgspec.Struct, kw_only=True):
    """A snapshot of the engine. Counters (from `steps` on) never decrease.

    deferred: those of the waiting that wait for another to compute what both need. histograms: the bytes of
    `StepHistograms`.
    """

    running: int = 0
    waiting: int = 0
    deferred: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    steps: int = 0
    sequence_steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    queried_tokens: int = 0
    preemptions: int = 0
    histograms: bytes = b""


class ModelInfo(msgspec.Struct, kw_only=True):
    """What an engine tells its client once it is ready."""

    name: str
    architecture: str
    device: str
    dtype: str
    vocab_size: int
    max_model_len: int
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_queue: int
    max_num_batched_tokens: int
    weight_bytes: int
    cache_bytes: int
    context_length: int = 0
    """Tokens that the model was made for."""
    hidden_size: int = 0
    num_parameters: int = 0
    scheduling_policy: str = "fcfs"

    @property
    def max_requests(self) -> int:
        """That run or wait at a time."""
        return self.max_num_seqs + self.max_queue

    def check(self, request: EngineRequest) -> None:
        """Raises RequestError when this engine can never serve the request."""
        length, params = len(request.prompt), request.params
        if length == 0:
            raise RequestError("the prompt must hold at least one token", "prompt")
        if length > self.max_model_len:
            raise RequestError(f"the prompt has {length} tokens; max_model_len is {self.max_model_len}", "prompt")
        # The last token drawn takes no place in the cache, so a prompt that fills the context has room for one.
        room = max(1, self.max_model_len - length)
        if params.max_tokens is not None and params.max_tokens > room:
            raise RequestError(
                f"the prompt's {length} tokens and max_tokens {params.max_tokens} make"
                f" {length + params.max_tokens}, more than max_model_len {self.max_model_len};"
                f" max_tokens may be {room}",
                "max_tokens",
            )
        for name, ids in (
            ("prompt", request.prompt),
            ("generated", request.generated),
            ("stop_token_ids", params.stop_token_ids),
            ("allowed_token_ids", params.allowed_token_ids),
            ("logprob_token_ids", params.logprob_token_ids),
            ("logit_bias", params.logit_bias),
        ):
            if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
                wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
                raise RequestError(f"{name} holds {wrong}; token ids go from 0 to {self.vocab_size - 1}", name)
        if request.priority and self.scheduling_policy != "priority":
            raise RequestError(
                f"Got priority {request.priority} but Priority scheduling is not enabled; it is with"
                " scheduling_policy priority",
                "priority",
            )
        if not -(2**63) <= request.priority < 2**63:
            raise RequestError(f"priority must be a 64-bit integer, got {request.priority}", "priority")
        if not request.cache_salt.isascii() and any(0xD800 <= ord(c) < 0xE000 for c in request.cache_salt):
            raise RequestError(f"cache_salt must be valid text, got {request.cache_salt!r}", "cache_salt")
