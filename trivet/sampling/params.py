"""How the next token is chosen: the neutral parameters, named as in vLLM."""

from __future__ import annotations

import math
from typing import Any

from trivet.errors import RequestError
from trivet.sampling.vllm_params import SamplingType, VllmParams

STAGES = ("penalties", "temperature", "top_k", "top_p", "min_p", "typical_p")
"""Stages that a chain may hold. Logit bias, allowed and suppressed tokens always come before the first."""

VLLM_STAGES = ("penalties", "temperature", "min_p", "top_k", "top_p", "typical_p")
TGI_STAGES = ("penalties", "temperature", "top_k", "top_p", "typical_p", "min_p")
LLAMACPP_STAGES = ("penalties", "top_k", "typical_p", "top_p", "min_p", "temperature")

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy."""
MAX_LOGPROBS = 1024


class SamplingParams(VllmParams, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """One request's sampling; defaults and rules are vLLM's. Raises RequestError, naming the field, when invalid.

    n: sequences to return for the prompt; the i-th takes seed + i.
    temperature: divides the logits; 0 is greedy (the stages after penalties then do nothing).
    top_k: keep the k best; 0 or -1 keeps all. top_p, min_p, typical_p: usual meanings, off at 1, 0, 1.
    repetition_penalty: > 1 discourages tokens seen in prompt or output; frequency_penalty and presence_penalty count
        the output only. `penalty_last_n` limits all three to the last n tokens, of prompt and output alike
        (llama.cpp's rule); -1 is vLLM's rule just described.
    seed: same seed, same tokens; None draws one.
    stop, stop_token_ids: end generation; the text of `stop` is left out unless include_stop_str_in_output.
    max_tokens: None = until the context is full. min_tokens: no end token or stop string before that many.
    logprobs, prompt_logprobs: how many of the best to report beside the token's own; -1 = all; None = none.
    logit_bias: added to logits. allowed_token_ids: all others are impossible.
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
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    penalty_last_n: int = -1
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
        self.check_vllm()
        self._check()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def sampling_type(self) -> SamplingType:
        if self.greedy:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    def _check(self) -> None:
        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise RequestError(f"{name} must be {rule}, got {getattr(self, name)!r}", name)

        def number(name: str) -> float:
            value: Any = getattr(self, name)
            need(isinstance(value, int | float) and not isinstance(value, bool), name, "a number")
            need(math.isfinite(value), name, "finite")
            return float(value)

        def integer(name: str, bound: int = 2**63) -> int:
            value: Any = getattr(self, name)
            need(isinstance(value, int) and not isinstance(value, bool), name, "an integer")
            need(-(2**63) <= value < bound, name, "a 64-bit integer")
            return int(value)

        need(1 <= integer("n") <= 16384, "n", "between 1 and 16384")
        need(-2 <= number("presence_penalty") <= 2, "presence_penalty", "between -2 and 2")
        need(-2 <= number("frequency_penalty") <= 2, "frequency_penalty", "between -2 and 2")
        need(number("repetition_penalty") > 0, "repetition_penalty", "greater than 0")
        need(number("temperature") >= 0, "temperature", "0 or greater")
        need(0 < number("top_p") <= 1, "top_p", "greater than 0 and at most 1")
        need(integer("top_k") >= -1, "top_k", "-1 or 0 (all), or at least 1")
        need(0 <= number("min_p") <= 1, "min_p", "between 0 and 1")
        need(0 < number("typical_p") <= 1, "typical_p", "greater than 0 and at most 1")
        if self.seed is not None:
            integer("seed", bound=2**64)
        need(integer("penalty_last_n") >= -1, "penalty_last_n", "-1 (all) or at least 0")
        if self.max_tokens is not None:
            need(integer("max_tokens") >= 1, "max_tokens", "at least 1")
        limit = self.max_tokens if self.max_tokens is not None else math.inf
        need(0 <= integer("min_tokens") <= limit, "min_tokens", "between 0 and max_tokens")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                need(-1 <= integer(name) <= MAX_LOGPROBS, name, f"between 0 and {MAX_LOGPROBS}, or -1 (all)")
        if self.stop is not None:
            ok = isinstance(self.stop, list) and all(isinstance(s, str) and s for s in self.stop)
            need(ok, "stop", "a non-empty string or a list of them")
        for name in ("stop_token_ids", "allowed_token_ids"):
            ids = getattr(self, name)
            ok = ids is None or (isinstance(ids, list) and all(isinstance(i, int) and i >= 0 for i in ids))
            need(ok, name, "a list of token ids")
        need(self.allowed_token_ids != [], "allowed_token_ids", "None or a non-empty list of token ids")
        if self.logit_bias is not None:
            ok = isinstance(self.logit_bias, dict) and all(
                isinstance(i, int) and i >= 0 and isinstance(b, int | float) and not math.isnan(b)
                for i, b in self.logit_bias.items()
            )
            need(ok, "logit_bias", "a map from token ids to numbers")
        ok = isinstance(self.stages, list | tuple) and all(stage in STAGES for stage in self.stages)
        need(ok, "stages", f"made of {', '.join(STAGES)}")
