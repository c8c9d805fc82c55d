"""One sequence as text: an engine's tokens, detokenised and cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from trivet.api.flat_logprobs import FlatLogprobs
from trivet.api.outputs import CompletionOutput, Logprob, TokenText
from trivet.engine.request import TokenChunk, TokenLogprob
from trivet.sampling.params import SamplingParams
from trivet.text.detokenizer import Detokenizer
from trivet.text.stop import StopStrings

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer


class Completion:
    """Grows by `extend`; `output` reports the whole, or what came since the last report: always the one or the other.

    Left out of the text: the token that ended it, and a stop string, unless `include_stop_str_in_output`. A
    stop string or a repetition sets `finish_reason`; tokens after the one that completed it are dropped, and the
    caller cancels the rest.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, prompt: Sequence[int], params: SamplingParams) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.text = ""
        self.tokens: list[TokenText] = []
        self.logprobs: list[dict[int, Logprob]] = []
        """But for those that a report of what is new has given away: they are large."""
        self.cumulative_logprob = 0.0
        self.changed = False
        self._params = params
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, prompt, params.skip_special_tokens)
        stops = [params.stop] if isinstance(params.stop, str) else params.stop or []
        self._stops = StopStrings(stops, params.include_stop_str_in_output, params.stop_at_token_ends)
        self._reported = (0, 0)
        """Tokens and characters."""

    def extend(self, chunk: TokenChunk) -> None:
        """Take an engine's new tokens. Call no more once `finish_reason` is set."""
        for i, token in enumerate(chunk.tokens):
            ends = chunk.stop_token is not None and i == len(chunk.tokens) - 1
            self._append(token, silent=ends and not self._params.include_stop_str_in_output)
            if chunk.logprobs is not None:
                self.logprobs.append(describe(chunk.logprobs[i], self._tokenizer))
                self.cumulative_logprob += chunk.logprobs[i].logprob
            if self._stops.matched is not None:
                self.finish_reason, self.stop_reason = "stop", self._stops.matched
                return
            if (i < len(chunk.tokens) - 1 or chunk.finish_reason is None) and self._repeats():
                self._end("repetition", "repetition_detected")
                return
        if chunk.finish_reason is not None:
            named = chunk.stop_token in (self._params.stop_token_ids or ())
            self._end(chunk.finish_reason, chunk.stop_token if named else None)

    def _repeats(self) -> bool:
        rule = self._params.repetition_detection
        if rule is None or len(self.tokens) < self._params.min_tokens:
            return False
        return rule.found_in([token.id for token in self.tokens[-rule.span :]])

    def _end(self, reason: str, stop_reason: int | str | None) -> None:
        """End with the text that was held back."""
        self.finish_reason, self.stop_reason = reason, stop_reason
        self._release(self._stops.push(self._detokenizer.flush()) + self._stops.flush())

    def due(self, interval: int) -> bool:
        """Whether to report it now, if that is to be done once in `interval` tokens after the first."""
        tokens, _ = self._reported
        return self.finish_reason is not None or tokens == 0 or len(self.tokens) - tokens >= interval

    def output(self, delta: bool) -> CompletionOutput:
        """Report everything, or only what is new."""
        tokens, chars = self._reported if delta else (0, 0)
        self._reported = (len(self.tokens), len(self.text))
        self.changed = False
        return CompletionOutput(
            index=self.index,
            text=self.text[chars:],
            token_ids=[token.id for token in self.tokens[tokens:]],
            cumulative_logprob=self.cumulative_logprob if self._params.logprobs is not None else None,
            logprobs=self._logprobs(delta) if self._params.logprobs is not None else None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            tokens=self.tokens[tokens:],
        )

    def _logprobs(self, delta: bool) -> list[dict[int, Logprob]]:
        found = self.logprobs[:]
        if delta:
            self.logprobs.clear()
        # It is no list, but reads like one.
        return cast(list[dict[int, Logprob]], FlatLogprobs.of(found)) if self._params.flat_logprobs else found

    def _append(self, token: int, silent: bool) -> None:
        self.changed = True
        special = self._tokenizer.is_special(token)
        self.tokens.append(TokenText(token, self._tokenizer.token_text(token) if special else "", special))
        if silent or not self._params.detokenize:
            return
        text = self._detokenizer.push(token)
        self._release(self._stops.push(text, match=len(self.tokens) > self._params.min_tokens))

    def _release(self, text: str) -> None:
        self.changed = True
        self.text += text
        if text and self.tokens and not self.tokens[-1].special:
            self.tokens[-1].text += text


def describe(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[int, Logprob]:
    """vLLM's shape of one token's log-probabilities: the token itself first, then the best by rank."""
    found = {entry.token: Logprob(entry.logprob, entry.rank, tokenizer.token_text(entry.token))}
    for rank, (token, logprob) in enumerate(entry.top, 1):
        found.setdefault(token, Logprob(logprob, rank, tokenizer.token_text(token)))
    return found
