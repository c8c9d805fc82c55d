"""What generation returns: vLLM's `RequestOutput` family.

What there is of each token is kept from the garbage collector, which would stop all streams to look at it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


class Logprob(msgspec.Struct, gc=False):
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class TokenText(msgspec.Struct, gc=False):
    """One generated token with the text it released ("" while a character is incomplete or may begin a stop).

    `special` tokens have their text here also when `skip_special_tokens` keeps it out of the output's text.
    """

    id: int
    text: str
    special: bool = False


@dataclass(slots=True)
class CompletionOutput:
    """One sequence. In a stream of deltas, `text`, `token_ids`, `tokens` and `logprobs` hold what is new.

    logprobs: one dict per token, the sampled token first, then the best by rank.
    finish_reason: None, "stop", "length", "abort", "error" or "repetition".
    stop_reason: the string or id that stopped it; None for an end-of-sequence token.

    Fields that are not shown by `repr` but `tokens` are vLLM's, and always None.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    routed_experts: None = field(default=None, repr=False)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: None = field(default=None, repr=False)
    sampling_mask: None = field(default=None, repr=False)
    spec_decode_metrics: None = field(default=None, repr=False)
    weight_versions: None = field(default=None, repr=False)
    tokens: list[TokenText] = field(default_factory=list, repr=False)

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestStateStats:
    """Seconds of `time.monotonic`, except `arrival_time` (wall clock) and `first_token_latency` (a duration).

    `is_corrupted` is always False: a sequence whose logits are not finite ends as an error.
    """

    num_generation_tokens: int = 0
    num_preemptions: int = 0
    arrival_time: float = 0.0
    queued_ts: float = 0.0
    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0
    first_token_latency: float = 0.0
    is_corrupted: bool = False


@dataclass(slots=True)
class RequestOutput:
    """`prompt_logprobs[0]` is None; the list is None where none were asked for.

    Fields that are not shown by `repr` are vLLM's, and always None; but `prompt_tokens_done` are the tokens that have
    been processed of the prompt, where the request has `report_progress`.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestStateStats | None = None
    lora_request: None = field(default=None, repr=False)
    encoder_prompt: None = field(default=None, repr=False)
    encoder_prompt_token_ids: None = field(default=None, repr=False)
    num_cached_tokens: int = 0
    num_cache_creation_tokens: None = field(default=None, repr=False)
    prompt_token_id_logprobs: None = field(default=None, repr=False, kw_only=True)
    kv_transfer_params: None = field(default=None, repr=False, kw_only=True)
    ec_transfer_params: None = field(default=None, repr=False, kw_only=True)
    prompt_tokens_done: int = field(default=0, repr=False, kw_only=True)
