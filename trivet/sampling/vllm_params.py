"""What vLLM's `SamplingParams` has beside the neutral parameters."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from trivet.errors import RequestError, unknown_keyword

MAX_BIAS = 100.0
"""vLLM takes a bias beyond it for this one."""


class StrictMeta(msgspec.StructMeta):
    """Makes a struct answer an unknown keyword with the nearest."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in cls.__struct_fields__:
                raise unknown_keyword(cls.__name__, name, cls.__struct_fields__)
        return super().__call__(*args, **kwargs)


class RequestOutputKind(enum.Enum):
    """What an output of a stream holds: all so far, only what is new, or all, in one output at the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class SamplingType(enum.IntEnum):
    GREEDY = 0
    RANDOM = 1
    RANDOM_SEED = 2


@dataclass
class StructuredOutputsParams:
    """A grammar for the output: exactly one of the first six. Not supported: `SamplingParams` refuses it."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        kinds = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise RequestError(f"give exactly one of {', '.join(kinds)}, got {', '.join(given) or 'none'}")


@dataclass
class RepetitionDetectionParams:
    """Ends an output whose last tokens are the same `min_count` times over, in a pattern of one of these sizes.

    max_pattern_size 0 is off; min_pattern_size 0 is 1.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_pattern_size <= self.max_pattern_size:
            rule = "max_pattern_size must be at least min_pattern_size, and both at least 0"
            raise RequestError(
                f"{rule}, got {self.max_pattern_size} and {self.min_pattern_size}", "repetition_detection"
            )
        if self.max_pattern_size and self.min_count < 2:
            raise RequestError(f"min_count must be at least 2, got {self.min_count}", "repetition_detection")

    @property
    def span(self) -> int:
        """How many of the last tokens matter."""
        return self.max_pattern_size * self.min_count

    def found_in(self, tokens: Sequence[int]) -> bool:
        """Whether the output ends in such a repetition."""
        if not self.max_pattern_size:
            return False
        longest = min(self.max_pattern_size, len(tokens) // self.min_count)
        for size in range(max(self.min_pattern_size, 1), longest + 1):
            repeated = size * (self.min_count - 1)
            if all(tokens[-i] == tokens[-i - size] for i in range(1, repeated + 1)):
                return True
        return False


class BeamSearchParams(msgspec.Struct, metaclass=StrictMeta):
    """See `LLM.beam_search`.

    beam_width: sequences that are followed, and returned. max_tokens: that each may have. ignore_eos: go on after it.
    length_penalty: a sequence's score is its log-probability, divided by its length to this power.

    temperature and include_stop_str_in_output are vLLM's; they change nothing, as scores are of the model's own
    distribution, and the end token is always among the tokens.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    structured_outputs: Any = None
    skip_special_tokens: bool = True
    watermarking: bool | None = None

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise RequestError(f"{name} must be a whole number, at least 1, got {value!r}", name)
        for name in ("structured_outputs", "watermarking"):
            if getattr(self, name):
                raise RequestError(f"{name} is not supported by beam search", name)


UNAVAILABLE: dict[str, tuple[Any, ...]] = {
    "extra_args": (None, {}),
    "prompt_logprob_start": (None,),
    "prompt_logprob_token_ids": (None,),
    "routed_experts_prompt_start": (0,),
    "structured_outputs": (None,),
    "thinking_token_budget": (None, -1),
    "trace_decode_token_ids": (None,),
    "watermarking": (None, False),
}
"""Fields that are not supported, with the values that ask for nothing."""


class VllmParams(msgspec.Struct, kw_only=True, omit_defaults=True, metaclass=StrictMeta):
    """The base of `SamplingParams`: vLLM's fields that say how outputs come, and those that are refused.

    output_kind: what an output of `AsyncLLM.generate` and `LLMEngine.step` holds; elsewhere it is the method's affair.
    stream_interval: report a sequence once in so many tokens after its first; None is the engine's.
    repetition_detection: end an output that repeats itself.
    flat_logprobs: give log-probabilities as `FlatLogprobs`, which reads like the list of dicts.
    skip_reading_prefix_cache: compute the whole prompt, and keep it from others.
    spaces_between_special_tokens, skip_clone: change nothing: no such spaces are made, and nothing is cloned.
    """

    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    stream_interval: int | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    flat_logprobs: bool = False
    skip_reading_prefix_cache: bool | None = None
    spaces_between_special_tokens: bool = True
    skip_clone: bool = False
    extra_args: Any = None
    prompt_logprob_start: Any = None
    prompt_logprob_token_ids: Any = None
    routed_experts_prompt_start: int = 0
    structured_outputs: Any = None
    thinking_token_budget: int | None = None
    trace_decode_token_ids: Any = None
    watermarking: bool | None = None

    @classmethod
    def from_optional(cls, **given: Any) -> Self:
        """As the constructor, but None stands for the default (except of max_tokens), and biases are limited to ±100.

        The ids of logit_bias may be text.
        """
        bias = given.get("logit_bias")
        if bias is not None:
            try:
                given["logit_bias"] = {int(t): min(MAX_BIAS, max(-MAX_BIAS, value)) for t, value in bias.items()}
            except (TypeError, ValueError):
                rule = "logit_bias must be a map from token ids to numbers"
                raise RequestError(f"{rule}, got {bias!r}", "logit_bias") from None
        return cls(**{name: value for name, value in given.items() if value is not None or name == "max_tokens"})

    def clone(self) -> Self:
        """A deep copy."""
        return msgspec.convert(msgspec.to_builtins(self), type(self), str_keys=True)

    def check_vllm(self) -> None:
        """Raises RequestError, naming the field, for what is not supported here."""
        for name, harmless in UNAVAILABLE.items():
            if (value := getattr(self, name)) not in harmless:
                raise RequestError(f"{name} is not supported, got {value!r}", name)
        if not isinstance(self.output_kind, RequestOutputKind):
            raise RequestError(f"output_kind must be a RequestOutputKind, got {self.output_kind!r}", "output_kind")
        repetition = self.repetition_detection
        if repetition is not None and not isinstance(repetition, RepetitionDetectionParams):
            name = "repetition_detection"
            raise RequestError(f"{name} must be RepetitionDetectionParams, got {repetition!r}", name)
        interval = self.stream_interval
        if interval is not None and (not isinstance(interval, int) or interval < 1):
            raise RequestError(
                f"stream_interval must be a whole number, at least 1, got {interval!r}", "stream_interval"
            )
