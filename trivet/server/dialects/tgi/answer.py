"""From the engine's outputs to TGI's answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput, TokenText
from trivet.errors import EngineError
from trivet.server import sse
from trivet.server.dialects.tgi.parameters import Generation
from trivet.server.dialects.tgi.schemas import (
    BestOfSequence,
    Details,
    Generated,
    Parameters,
    PrefillToken,
    StreamDetails,
    StreamEvent,
    Token,
)
from trivet.server.service import Service


class Answer:
    """Writes one request's outputs. `prefix` is the prompt where the full text was asked for, else empty."""

    def __init__(self, service: Service, given: Parameters, generation: Generation, prefix: str) -> None:
        self._tokenizer = service.llm.tokenizer
        self._given = given
        self._generation = generation
        self._prefix = prefix

    def whole(self, output: RequestOutput) -> Generated:
        best, *others = sorted(output.outputs, key=_mean_logprob, reverse=True)
        text = self._prefix + best.text
        if not (self._given.details or self._given.decoder_input_details):
            return Generated(text)
        prefill = self._prefill(output)
        details = Details(
            finish_reason=self._finish_reason(best, len(best.token_ids)),
            generated_tokens=len(best.token_ids),
            seed=self._seed(best),
            prefill=prefill,
            tokens=self._tokens(best),
            best_of_sequences=[
                BestOfSequence(
                    self._prefix + other.text,
                    self._finish_reason(other, len(other.token_ids)),
                    len(other.token_ids),
                    self._seed(other),
                    prefill,
                    self._tokens(other),
                    self._top_tokens(other),
                )
                for other in others
            ]
            or UNSET,
            top_tokens=self._top_tokens(best),
        )
        return Generated(text, details)

    async def events(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        """One event a token; the last has the whole text, and details if asked for."""
        pieces: list[str] = []
        index = 0
        async with aclosing(outputs):
            async for output in outputs:
                for sequence in output.outputs:
                    pieces.append(sequence.text)
                    tokens, top = self._tokens(sequence), self._top_tokens(sequence)
                    if sequence.finish_reason is not None and not tokens:
                        raise EngineError("generation ended without a last token")
                    for i, token in enumerate(tokens):
                        index += 1
                        event = StreamEvent(
                            index=index,
                            token=token,
                            top_tokens=top[i] if top is not UNSET else UNSET,
                            generated_text=None,
                            details=None,
                        )
                        if sequence.finish_reason is not None and i == len(tokens) - 1:
                            event.generated_text = self._prefix + "".join(pieces)
                            event.details = self._stream_details(sequence, index, output)
                        yield sse.event(msgspec.json.encode(event))

    def _stream_details(
        self, sequence: CompletionOutput, generated: int, output: RequestOutput
    ) -> StreamDetails | None:
        if not self._given.details:
            return None
        reason = self._finish_reason(sequence, generated)
        return StreamDetails(reason, generated, self._seed(sequence), len(output.prompt_token_ids))

    def _finish_reason(self, sequence: CompletionOutput, generated: int) -> str:
        """The limit comes first: also the last token that was allowed may be an end token."""
        if sequence.finish_reason == "length" or generated == self._generation.params.max_tokens:
            return "length"
        return "stop_sequence" if isinstance(sequence.stop_reason, str) else "eos_token"

    def _seed(self, sequence: CompletionOutput) -> int | None:
        return None if self._generation.seed is None else self._generation.seed + sequence.index

    def _prefill(self, output: RequestOutput) -> list[PrefillToken]:
        if output.prompt_logprobs is None:
            return []
        return [
            PrefillToken(token, self._text(token), entry[token].logprob if entry else None)
            for token, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        ]

    def _tokens(self, sequence: CompletionOutput) -> list[Token]:
        return [self._token(*pair) for pair in zip(sequence.tokens, sequence.logprobs or [], strict=True)]

    @staticmethod
    def _token(token: TokenText, entry: dict[int, Logprob]) -> Token:
        return Token(token.id, token.text, entry[token.id].logprob, token.special)

    def _top_tokens(self, sequence: CompletionOutput) -> list[list[Token]] | msgspec.UnsetType:
        top_n = self._given.top_n_tokens
        if not top_n:
            return UNSET
        return [
            [
                Token(token, self._text(token), value.logprob, self._tokenizer.is_special(token))
                for token, value in entry.items()
                if value.rank is not None and value.rank <= top_n
            ]
            for entry in map(_by_rank, sequence.logprobs or [])
        ]

    def _text(self, token: int) -> str:
        return self._tokenizer.token_text(token)


def _mean_logprob(sequence: CompletionOutput) -> float:
    return (sequence.cumulative_logprob or 0.0) / max(1, len(sequence.token_ids))


def _by_rank(entry: dict[int, Logprob]) -> dict[int, Logprob]:
    return dict(sorted(entry.items(), key=lambda item: item[1].rank or 0))
