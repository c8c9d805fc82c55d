"""How the next token is chosen: the neutral parameters, named as in vLLM."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from trivet.errors import RequestError
from trivet.sampling.vllm_params import SamplingType, VllmParams

STAGES = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
    "adaptive_p",
    "infill",
    "watermark",
    "tgi_penalties",
    "tgi_top_k",
    "tgi_typical_p",
)
"""Stages that a chain may hold. Logit bias, allowed and suppressed tokens and bad words always come before the first.
The three of TGI follow its rules: frequencies are counted in the prompt too and divided by the length, and what is
equal to the last token kept is kept with it.
"""

VLLM_STAGES = (
    *("watermark", "penalties", "dry", "temperature", "min_p", "top_k", "top_p", "typical_p"),
    *("top_n_sigma", "xtc", "adaptive_p"),
)
TGI_STAGES = ("watermark", "tgi_penalties", "temperature", "tgi_top_k", "top_p", "tgi_typical_p")
LLAMACPP_STAGES = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy."""
MAX_LOGPROB_TOKEN_IDS = 128
MAX_PHRASES = 128
"""Bad words, or sequence breakers, in a request."""
DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
LOGPROBS_MODES = ("raw", "processed")


_Rules = dict[str, tuple[str, Callable[[Any], bool]]]

_NUMBERS: _Rules = {
    "presence_penalty": ("finite", lambda x: True),
    "frequency_penalty": ("finite", lambda x: True),
    "repetition_penalty": ("greater than 0", lambda x: x > 0),
    "temperature": ("0 or greater", lambda x: x >= 0),
    "dynatemp_range": ("0 or greater", lambda x: x >= 0),
    "dynatemp_exponent": ("finite", lambda x: True),
    "top_p": ("greater than 0 and at most 1", lambda x: 0 < x <= 1),
    "min_p": ("between 0 and 1", lambda x: 0 <= x <= 1),
    "typical_p": ("greater than 0 and at most 1", lambda x: 0 < x <= 1),
    "top_n_sigma": ("finite", lambda x: True),
    "xtc_probability": ("between 0 and 1", lambda x: 0 <= x <= 1),
    "xtc_threshold": ("between 0 and 1", lambda x: 0 <= x <= 1),
    "dry_multiplier": ("0 or greater", lambda x: x >= 0),
    "dry_base": ("0 or greater", lambda x: x >= 0),
    "mirostat_tau": ("0 or greater", lambda x: x >= 0),
    "mirostat_eta": ("0 or greater", lambda x: x >= 0),
    "adaptive_target": ("at most 1, negative for off", lambda x: x <= 1),
    "adaptive_decay": ("between 0 and 0.99", lambda x: 0 <= x <= 0.99),
}
_INTEGERS: _Rules = {
    "n": ("between 1 and 16384", lambda x: 1 <= x <= 16384),
    "top_k": ("-1 or 0 (all), or at least 1", lambda x: x >= -1),
    "min_keep": ("at least 0", lambda x: x >= 0),
    "penalty_last_n": ("-1 (all) or at least 0", lambda x: x >= -1),
    "dry_allowed_length": ("at least 0", lambda x: x >= 0),
    "dry_penalty_last_n": ("-1 (all) or at least 0", lambda x: x >= -1),
    "mirostat": ("0 (off), 1 or 2", lambda x: 0 <= x <= 2),
}
_COUNT = ("-1 (all) or at least 0", lambda x: x >= -1)
_OPTIONAL_INTEGERS: _Rules = {
    "max_tokens": ("at least 1", lambda x: x >= 1),
    "logprobs": _COUNT,
    "prompt_logprobs": _COUNT,
}
_FLOAT_MAX = sys.float_info.max


def _are_phrases(texts: Any) -> bool:
    """Whether these are few texts, none empty and none with half of a surrogate pair."""
    if not (isinstance(texts, list | tuple) and len(texts) <= MAX_PHRASES):
        return False
    return all(isinstance(text, str) and text and text.encode(errors="ignore").decode() == text for text in texts)


class SamplingParams(VllmParams, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """One request's sampling; defaults and rules are vLLM's. Raises RequestError, naming the field, when invalid.

    n: sequences to return for the prompt; the i-th takes seed + i.
    temperature: divides the logits; 0 takes the best of those that the stages before leave.
    dynatemp_range, dynatemp_exponent: let the temperature go up and down by the range, with the entropy (llama.cpp).
    top_k: keep the k best; 0 or -1 keeps all. top_p, min_p, typical_p, top_n_sigma: usual meanings, off at 1, 0, 1, 0.
    min_keep: top_k, top_p, min_p, typical_p and xtc keep at least that many.
    xtc_probability, xtc_threshold: how often to drop all but the last of the tokens over the threshold.
    repetition_penalty: > 1 discourages tokens seen in prompt or output; frequency_penalty and presence_penalty count
        the output only. `penalty_last_n` limits all three to the last n tokens, of prompt and output alike
        (llama.cpp's rule); -1 is vLLM's rule just described.
    dry_*: tokens that would continue a repetition of more than dry_allowed_length tokens, among the last
        dry_penalty_last_n (-1: all), lose dry_multiplier * dry_base ** (length - dry_allowed_length). Repetitions
        end at the texts of dry_sequence_breakers, of which the first 40 bytes count.
    mirostat: 1 or 2 keeps the surprise near mirostat_tau, learning at the rate mirostat_eta; of the stages, only the
        temperature runs then (llama.cpp's rule).
    adaptive_target, adaptive_decay: prefer tokens so that their mean probability comes to the target (with the stage
        "adaptive_p"); off below 0.
    watermark: favour the half of the vocabulary that the token before picks (TGI's).
    seed: same seed, same tokens; None draws one.
    stop, stop_token_ids: end generation; the text of `stop` is left out unless include_stop_str_in_output.
        stop_at_token_ends: not where a token only begins with the end of a stop string (TGI's rule).
    max_tokens: None = until the context is full. min_tokens: no end token or stop string before that many.
    logprobs, prompt_logprobs: how many of the best to report beside the token's own; -1 = all; None = none.
    logprob_token_ids: with the output, report these instead of the best.
    logprobs_mode: of the unmodified logits ("raw"), or of what the stages leave ("processed": where the temperature is
        0, of those among which the best was taken; ties with the last of the best are reported too).
    logit_bias: added to logits. allowed_token_ids: all others are impossible.
    bad_words: their last token is impossible where the output ends in those before it.
    stages: order of the chain, see STAGES.

    Further fields are those of `VllmParams`. An unknown keyword is a TypeError that names the nearest.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    stop_at_token_ends: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    penalty_last_n: int = -1
    bad_words: list[str] | None = None
    logprob_token_ids: list[int] | None = None
    min_keep: int = 0
    top_n_sigma: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = DRY_SEQUENCE_BREAKERS
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    watermark: bool = False
    logprobs_mode: str = "raw"
    stages: tuple[str, ...] = VLLM_STAGES

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        if self.seed == -1:
            self.seed = None
        if self.logprobs is True:
            self.logprobs = 1
        if self.prompt_logprobs is True:
            self.prompt_logprobs = 1
        if self.logprob_token_ids and self.logprobs is None:
            self.logprobs = 0
        self.check_vllm()
        self._check()

    @property
    def greedy(self) -> bool:
        """Whether the best token is taken, nothing drawn."""
        return self.temperature < GREEDY_BELOW and self.dynatemp_range == 0 and "temperature" in self.stages

    @property
    def sampling_type(self) -> SamplingType:
        if self.greedy:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    def _check(self) -> None:
        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise RequestError(f"{name} must be {rule}, got {getattr(self, name)!r}", name)

        def integer(name: str, bound: int = 2**63) -> int:
            value: Any = getattr(self, name)
            need(isinstance(value, int) and not isinstance(value, bool), name, "an integer")
            need(-(2**63) <= value < bound, name, "a 64-bit integer")
            return int(value)

        for name, (rule, holds) in _NUMBERS.items():
            value: Any = getattr(self, name)
            if type(value) is not float:
                need(isinstance(value, int | float) and not isinstance(value, bool), name, "a number")
            if not (abs(value) <= _FLOAT_MAX and holds(value)):
                need(abs(value) <= _FLOAT_MAX, name, "finite")
                need(False, name, rule)
        for name, (rule, holds) in _INTEGERS.items():
            if not holds(integer(name)):
                need(False, name, rule)
        for name in ("max_tokens", "logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                rule, holds = _OPTIONAL_INTEGERS[name]
                need(holds(integer(name)), name, rule)
        if self.seed is not None:
            integer("seed", bound=2**64)
        limit = self.max_tokens if self.max_tokens is not None else math.inf
        need(0 <= integer("min_tokens") <= limit, "min_tokens", "between 0 and max_tokens")
        need(isinstance(self.watermark, bool), "watermark", "true or false")
        need(self.logprobs_mode in LOGPROBS_MODES, "logprobs_mode", f"one of {', '.join(LOGPROBS_MODES)}")
        for name in ("bad_words", "dry_sequence_breakers"):
            texts = getattr(self, name)
            rule = f"a list of at most {MAX_PHRASES} non-empty valid strings"
            need(_are_phrases(texts) or (texts is None and name == "bad_words"), name, rule)
        if self.stop is not None:
            ok = isinstance(self.stop, list) and all(isinstance(s, str) and s for s in self.stop)
            need(ok, "stop", "a non-empty string or a list of them")
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            ids = getattr(self, name)
            ok = ids is None or (isinstance(ids, list) and all(isinstance(i, int) and i >= 0 for i in ids))
            need(ok, name, "a list of token ids")
        few = len(self.logprob_token_ids or []) <= MAX_LOGPROB_TOKEN_IDS
        need(few, "logprob_token_ids", f"a list of at most {MAX_LOGPROB_TOKEN_IDS} token ids")
        need(self.allowed_token_ids != [], "allowed_token_ids", "None or a non-empty list of token ids")
        if self.logit_bias is not None:
            ok = isinstance(self.logit_bias, dict) and all(
                isinstance(i, int) and i >= 0 and isinstance(b, int | float) and not math.isnan(b)
                for i, b in self.logit_bias.items()
            )
            need(ok, "logit_bias", "a map from token ids to numbers")
        ok = isinstance(self.stages, list | tuple) and all(stage in STAGES for stage in self.stages)
        need(ok, "stages", f"made of {', '.join(STAGES)}")


def check_added_penalties(presence: float | None, frequency: float | None) -> None:
    """OpenAI's limits, which llama.cpp does not have. Raises RequestError."""
    for name, value in (("presence_penalty", presence), ("frequency_penalty", frequency)):
        if value is not None and not -2 <= value <= 2:
            raise RequestError(f"{name} must be between -2 and 2, got {value}", name)
