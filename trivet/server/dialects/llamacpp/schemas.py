"""Bodies of llama.cpp's own completion API; field order is the order on the wire.

In a request null means absent, and fields of unknown names are ignored, as llama.cpp does.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field


class CompletionBody(Struct, kw_only=True):
    prompt: Any = None
    n_predict: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_cmpl: int | None = None
    n: int | None = None
    stream: bool | None = None
    cache_prompt: bool | None = None
    n_keep: int | None = None
    n_discard: int | None = None
    return_tokens: bool | None = None
    timings_per_token: bool | None = None
    response_fields: list[str] | None = None

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    n_probs: int | None = None
    logprobs: int | None = None
    samplers: str | list[str] | None = None
    logit_bias: Any = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None

    n_indent: int | None = None
    t_max_predict_ms: float | None = None
    return_progress: bool | None = None
    dynatemp_range: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    dry_multiplier: float | None = None
    mirostat: int | None = None
    adaptive_target: float | None = None
    min_keep: int | None = None
    post_sampling_probs: bool | None = None
    grammar: str | None = None
    json_schema: Any = None
    lora: list[Any] | None = None


class LogitBias(Struct):
    bias: float | None
    token: int


class GenerationSettings(Struct, kw_only=True):
    """What a request was run with; settings that are not supported have the values that turn them off."""

    seed: int
    temperature: float
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int
    top_p: float
    min_p: float
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    stop: list[str]
    max_tokens: int
    n_predict: int
    n_keep: int
    n_discard: int
    ignore_eos: bool
    stream: bool
    logit_bias: list[LogitBias]
    n_probs: int
    min_keep: int = 0
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
    post_sampling_probs: bool = False
    backend_sampling: bool = False
    lora: list[Any] = []


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


class TopProbability(Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class TokenProbability(Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopProbability]


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
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET


class TokenizeBody(Struct):
    content: Any
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Struct):
    tokens: list[int]
