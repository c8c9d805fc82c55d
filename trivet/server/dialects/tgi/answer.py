"""From the engine's outputs to the answers of TGI's own API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.server import sse
from trivet.server.dialects.tgi.parameters import Generation
from trivet.server.dialects.tgi.schemas import (
    BestOfSequence,
    Details,
    Generated,
    Parameters,
    StreamDetails,
    StreamEvent,
)
from trivet.server.dialects.tgi.tokens import TokenWriter
from trivet.server.service import Service


class Answer:
    """Writes one request's outputs. `prefix` is the prompt where the full text was asked for, else empty."""

    def __init__(self, service: Service, given: Parameters, generation: Generation, prefix: str) -> None:
        self._given = given
        self._generation = generation
        self._prefix = prefix
        self._writer = TokenWriter(service.llm.tokenizer, given.top_n_tokens or 0)

    def whole(self, output: RequestOutput) -> Generated:
        """Of several sequences, the answer is the one whose tokens are the most likely."""
        best, *others = sorted(output.outputs, key=_mean_logprob, reverse=True)
        text = self._prefix + best.text
        if not (self._given.details or self._given.decoder_input_details):
            return Generated(text)
        prefill = self._writer.prefill(output)
        details = Details(
            finish_reason=self._finish_reason(best),
            generated_tokens=len(best.token_ids),
            seed=self._generation.seed_of(best),
            prefill=prefill,
            tokens=self._writer.tokens(best),
            best_of_sequences=[
                BestOfSequence(
                    self._prefix + other.text,
                    self._finish_reason(other),
                    len(other.token_ids),
                    self._generation.seed_of(other),
                    prefill,
                    self._writer.tokens(other),
                    self._writer.top_tokens(other) or UNSET,
                )
                for other in others
            ]
            or UNSET,
            top_tokens=self._writer.top_tokens(best) or UNSET,
        )
        return Generated(text, details)

    async def events(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        """One event a token; the last has the whole text, and details if asked for."""
        text = ""
        index = 0
        async with aclosing(outputs):
            async for output in outputs:
                events = bytearray()
                for sequence in output.outputs:
                    text += sequence.text
                    for step in self._writer.steps(sequence):
                        index += 1
                        event = StreamEvent(
                            index=index,
                            token=step.token,
                            top_tokens=step.top or UNSET,
                            generated_text=self._prefix + text if step.last else None,
                            details=self._stream_details(sequence, index, output) if step.last else None,
                        )
                        events += sse.event(msgspec.json.encode(event))
                if events:
                    yield bytes(events)

    def _stream_details(
        self, sequence: CompletionOutput, generated: int, output: RequestOutput
    ) -> StreamDetails | None:
        if not self._given.details:
            return None
        reason = self._generation.finish_reason(sequence, generated)
        return StreamDetails(reason, generated, self._generation.seed_of(sequence), len(output.prompt_token_ids))

    def _finish_reason(self, sequence: CompletionOutput) -> str:
        return self._generation.finish_reason(sequence, len(sequence.token_ids))


def _mean_logprob(sequence: CompletionOutput) -> float:
    return (sequence.cumulative_logprob or 0.0) / max(1, len(sequence.token_ids))
