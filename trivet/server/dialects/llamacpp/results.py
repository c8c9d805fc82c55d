"""What llama.cpp answers to its native requests; field order is the order on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, field


class LogitBias(Struct):
    """`bias` None forbids the token: JSON cannot say minus infinity."""

    bias: float | None
    token: int


class GenerationSettings(Struct, kw_only=True):
    """What a request was run with; settings that are not supported have the values that turn them off."""

    seed: int
    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    adaptive_target: float
    adaptive_decay: float
    stop: list[str]
    max_tokens: int
    n_predict: int
    n_keep: int
    n_discard: int
    ignore_eos: bool
    stream: bool
    logit_bias: list[LogitBias]
    n_probs: int
    min_keep: int
    grammar: str = ""
    grammar_lazy: bool = False
    grammar_triggers: list[Any] = []
    preserved_tokens: list[int] = []
    chat_format: str = "Content-only"
    reasoning_format: str = "none"
    reasoning_in_content: bool = False
    generation_prompt: str = ""
    samplers: list[str]
    speculative_types: str = field(name="speculative.types", default="none")
    timings_per_token: bool
    post_sampling_probs: bool
    backend_sampling: bool = False
    lora: list[Any] = []

    def brief(self) -> dict[str, Any]:
        """Without texts and lists, as /props and /slots show it."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name not in _LONG}


_LONG = (
    *("stop", "logit_bias", "grammar", "grammar_lazy", "grammar_triggers", "preserved_tokens"),
    "dry_sequence_breakers",
)


class Timings(Struct):
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class PromptProgress(Struct):
    total: int
    cache: int
    processed: int
    time_ms: int


class TopProbability(Struct):
    """`logprob`, or `prob` of what the samplers left."""

    id: int
    token: str
    bytes: list[int]
    logprob: float | UnsetType = UNSET
    prob: float | UnsetType = UNSET


class TokenProbability(Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float | UnsetType = UNSET
    top_logprobs: list[TopProbability] | UnsetType = UNSET
    prob: float | UnsetType = UNSET
    top_probs: list[TopProbability] | UnsetType = UNSET


class FinalResult(Struct, kw_only=True):
    index: int
    content: str
    tokens: list[int]
    id_slot: int
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: GenerationSettings
    prompt: str
    has_new_line: bool
    truncated: bool
    stop_type: str
    stopping_word: str
    tokens_cached: int
    timings: Timings
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET


class PartialResult(Struct, kw_only=True):
    index: int
    content: str
    tokens: list[int]
    stop: bool = False
    id_slot: int
    tokens_predicted: int
    tokens_evaluated: int
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET
