"""The sequences of one request as they grow, whatever shape they are told in."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput, RequestStateStats
from trivet.api.request import GenerateRequest
from trivet.server.dialects.llamacpp.cutoff import Cutoff
from trivet.server.dialects.llamacpp.results import GenerationSettings, PromptProgress, Timings
from trivet.server.dialects.llamacpp.slots import Slot, slots_of
from trivet.server.service import Service
from trivet.server.streams import merged

Entries = list[dict[int, Logprob]]
"""Log-probabilities, one dict a token."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence so far; `stop_type` is "none" until it ends. `untold` tokens have released no text yet. `logprobs`
    are not kept where steps are told.
    """

    index: int
    prompt: list[int]
    salt: str
    settings: GenerationSettings
    cutoff: Cutoff
    task: int = -1
    slot: Slot | None = None
    cached: int = 0
    processed: int = -1
    metrics: RequestStateStats | None = None
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)
    logprobs: Entries = field(default_factory=list)
    stop_type: str = "none"
    stopping_word: str = ""
    truncated: bool = False

    @property
    def slot_id(self) -> int:
        return -1 if self.slot is None else self.slot.id

    @property
    def ended(self) -> bool:
        return self.stop_type != "none"

    @property
    def in_cache(self) -> list[int]:
        """Tokens whose keys and values have been computed; the last one's come with the next."""
        return self.prompt + self.tokens[:-1]

    @property
    def timings(self) -> Timings:
        """Rates of generation leave out the first token, which the prompt's processing yields."""
        processed, generated = len(self.prompt) - self.cached, len(self.tokens)
        prompt_ms = predicted_ms = 0.0
        if self.metrics is not None and generated:
            prompt_ms = 1000 * (self.metrics.first_token_ts - self.metrics.scheduled_ts)
            predicted_ms = 1000 * (self.metrics.last_token_ts - self.metrics.first_token_ts)
        later = generated - 1
        return Timings(
            cache_n=self.cached,
            prompt_n=processed,
            prompt_ms=prompt_ms,
            prompt_per_token_ms=prompt_ms / processed if processed else 0.0,
            prompt_per_second=1000 * processed / prompt_ms if prompt_ms > 0 else 0.0,
            predicted_n=generated,
            predicted_ms=predicted_ms,
            predicted_per_token_ms=predicted_ms / later if later > 0 else 0.0,
            predicted_per_second=1000 * later / predicted_ms if predicted_ms > 0 else 0.0,
        )


@dataclass(slots=True)
class Step:
    """News of one sequence: how far its prompt is, or text with the tokens it came of, or that it has ended."""

    sequence: Sequence
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: Entries = field(default_factory=list)
    progress: PromptProgress | None = None


class Generation:
    """Runs one request; the sequence i of prompt p has the index p * n + i.

    wanted_slot: the slot for the first sequence; -1 is any.
    """

    def __init__(
        self,
        service: Service,
        requests: list[GenerateRequest],
        settings: GenerationSettings,
        cutoffs: list[Cutoff],
        wanted_slot: int,
    ) -> None:
        self._service = service
        self._requests = requests
        self._n = len(cutoffs) // len(requests)
        self._wanted_slot = wanted_slot
        self.settings = settings
        self.sequences: list[Sequence] = []
        for index, cutoff in enumerate(cutoffs):
            request = requests[index // self._n]
            assert isinstance(request.prompt, list)
            self.sequences.append(Sequence(index, request.prompt, request.cache_salt, settings, cutoff))

    async def run(self) -> None:
        """To the end of all sequences."""
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                step.sequence.logprobs += step.logprobs

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Run, telling each step; a sequence's last is the one after which it has `ended`, and has no text."""
        slots = slots_of(self._service)
        for sequence in self.sequences:
            slots.enter(sequence, self._wanted_slot if sequence.index == 0 else -1)
        try:
            async with aclosing(merged([self._service.generate(one) for one in self._requests])) as outputs:
                async for prompt_index, output in outputs:
                    for whole in output.outputs:
                        sequence = self.sequences[prompt_index * self._n + whole.index]
                        for change in _token_by_token(whole) if self.settings.n_probs else [whole]:
                            if not sequence.ended:
                                for step in self._take(sequence, output, change):
                                    yield step
                    if all(sequence.ended for sequence in self.sequences):
                        return
        finally:
            for sequence in self.sequences:
                slots.leave(sequence)

    def _take(self, sequence: Sequence, output: RequestOutput, change: CompletionOutput) -> Iterator[Step]:
        if sequence.metrics is None:
            sequence.metrics, sequence.cached = output.metrics, output.num_cached_tokens
        if output.prompt_tokens_done and not sequence.tokens:
            yield from self._progress(sequence, output.prompt_tokens_done)
        if not (change.token_ids or change.text or change.finish_reason):
            return
        settings = self.settings
        text, tokens, logprobs = change.text, change.token_ids, change.logprobs or []
        if settings.n_predict == 0:  # the prompt is only processed, for the cache: forget the token that came with it
            text, tokens, logprobs = "", [], []
        text, cut = sequence.cutoff.push(text)
        sequence.text += text
        sequence.tokens += tokens
        sequence.untold += tokens
        if text or (settings.n_probs and tokens):
            told, sequence.untold = sequence.untold, []
            yield Step(sequence, text, told, logprobs)
        if cut or settings.n_predict == 0 or change.finish_reason is not None:
            self._end(sequence, change, cut)
            yield Step(sequence)

    def _end(self, sequence: Sequence, change: CompletionOutput, cut: bool) -> None:
        wanted = self.settings.n_predict
        if cut or wanted == 0:
            sequence.stop_type = "limit"
        elif change.finish_reason == "length":
            sequence.stop_type = "limit"
            sequence.truncated = wanted < 0 or len(sequence.tokens) < wanted
        elif isinstance(change.stop_reason, str):
            sequence.stop_type, sequence.stopping_word = "word", change.stop_reason
        else:
            sequence.stop_type = "eos"

    @staticmethod
    def _progress(sequence: Sequence, done: int) -> Iterator[Step]:
        """News of the prompt: first what of it was cached, at the end that all of it has been processed."""
        assert sequence.metrics is not None
        for processed in (sequence.cached, done):
            if processed > sequence.processed:
                sequence.processed = processed
                seconds = time.monotonic() - sequence.metrics.scheduled_ts if processed == done else 0.0
                progress = PromptProgress(len(sequence.prompt), sequence.cached, processed, round(1000 * seconds))
                yield Step(sequence, progress=progress)


def _token_by_token(change: CompletionOutput) -> Iterator[CompletionOutput]:
    """A change as one for each of its tokens; their texts add up to its own. The last of them has how it ended."""
    text, logprobs = change.text, change.logprobs or []
    for i, token in enumerate(change.tokens[:-1]):
        piece = token.text if text.startswith(token.text) else ""
        text = text[len(piece) :]
        yield CompletionOutput(change.index, piece, [token.id], logprobs=logprobs[i : i + 1], tokens=[token])
    last = len(change.tokens) - 1
    yield replace(
        change,
        text=text,
        token_ids=change.token_ids[-1:],
        logprobs=logprobs[max(last, 0) :],
        tokens=change.tokens[-1:],
    )
