"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput
from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect_all
from trivet.server.connection import while_connected
from trivet.server.dialects.openai.answers import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    Usage,
)
from trivet.server.dialects.openai.errors import DIALECT
from trivet.server.dialects.openai.load import load_header
from trivet.server.dialects.openai.logprobs import LogprobsWriter, prompt_logprobs
from trivet.server.dialects.openai.reply import Reply
from trivet.server.dialects.openai.requests import (
    check_logprobs,
    check_request,
    fit_prompt,
    generate_request,
    max_output_tokens,
    sampling_params,
)
from trivet.server.dialects.openai.schemas import CompletionBody
from trivet.server.errors import Kind, Problem
from trivet.server.json_response import json_response
from trivet.server.service import Service
from trivet.server.streams import merged

DEFAULT_MAX_TOKENS = 16


async def completions(service: Service, request: Request) -> Response:
    """Continue one or more prompts."""
    body = await read_json(request, service.options.payload_limit, CompletionBody, strict=False)
    reply = Reply.to(service, request, body, "cmpl")
    given, asked = await completion_requests(service, request, body, reply.id)
    answer = CompletionAnswer(service, body, reply, echoes(service, given, asked) if body.echo else [])
    outputs = merged([service.generate(one) for one in asked])
    if body.stream:
        return await sse.event_stream(request, answer.chunks(outputs), DIALECT.error_event)
    whole = await while_connected(request.receive, collect_all(outputs, len(asked)))
    return json_response(answer.whole(whole), load_header(service, request))


async def completion_requests(
    service: Service, request: Request, body: CompletionBody, request_id: str
) -> tuple[list[str | list[int]], list[GenerateRequest]]:
    """A request's prompts, and what to ask the engine for each. Raises Problem and RequestError."""
    check_request(service, body)
    check_logprobs(service, body.logprobs, "logprobs")
    if body.logprob_token_ids and only_scores(body):
        message = (
            "`logprob_token_ids` is not supported when `echo=True` and `max_tokens=0` because no output tokens "
            "are generated."
        )
        raise Problem(Kind.INVALID, message, "logprob_token_ids")
    given = prompts(body)
    service.check_count(len(given), body.n or 1)
    return given, [await _completion_request(service, request, body, prompt, request_id) for prompt in given]


def prompts(body: CompletionBody) -> list[str | list[int]]:
    """The request's prompts: one text, one list of ids, or a list of either."""
    prompt = body.prompt
    if prompt is None or prompt == "":
        raise Problem(Kind.INVALID, "Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, str):
        return [prompt]
    ids = [part for part in prompt if isinstance(part, int)]
    if ids and len(ids) == len(prompt):
        return [ids]
    if ids:
        raise Problem(Kind.INVALID, "prompt must not mix token ids with texts or lists", "prompt")
    return [part for part in prompt if not isinstance(part, int)]


def echoes(service: Service, given: Sequence[str | list[int]], asked: Sequence[GenerateRequest]) -> list[str]:
    """The prompts as text: as they were given, or of the token ids that are left of those given."""
    decode = service.llm.tokenizer.decode
    kept = [prompt if isinstance(prompt, str) else one.prompt for prompt, one in zip(given, asked, strict=True)]
    return [prompt if isinstance(prompt, str) else decode(prompt) for prompt in kept]


def only_scores(body: CompletionBody) -> bool:
    """Whether the prompt is the whole answer."""
    return bool(body.echo) and body.max_tokens == 0


async def _completion_request(
    service: Service, request: Request, body: CompletionBody, prompt: str | list[int], request_id: str
) -> GenerateRequest:
    encoded = isinstance(prompt, str)
    ids = await service.encode(prompt, body.add_special_tokens is not False) if isinstance(prompt, str) else prompt
    if only_scores(body):
        ids = fit_prompt(service, ids, body, encoded=encoded, room=0)
        max_tokens: int | None = 1  # The engine draws one, which is forgotten.
    else:
        ids = fit_prompt(service, ids, body, encoded=encoded)
        requested = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        max_tokens = max_output_tokens(service, requested, "max_tokens", len(ids))
    params = sampling_params(service, body, max_tokens, body.logprobs)
    if body.echo and body.logprobs is not None and params.prompt_logprobs is None:
        params.prompt_logprobs = body.logprobs
    return generate_request(request, body, ids, params, request_id)


class CompletionAnswer:
    """Writes the engine's outputs as a completion, or as the chunks of one.

    The choice of sequence i of prompt p has the index p * n + i.
    """

    def __init__(self, service: Service, body: CompletionBody, reply: Reply, echoes: Sequence[str]) -> None:
        self._body = body
        self._reply = reply
        self._n = body.n or 1
        self._echoes = echoes
        self._score_only = only_scores(body)
        self._logprobs = LogprobsWriter(
            service.llm.tokenizer,
            -1 if body.logprob_token_ids else body.logprobs or 0,
            as_ids=service.options.tokens_as_ids or bool(body.return_tokens_as_token_ids),
        )
        self._offsets: dict[int, int] = {}
        self._prompt_entries: dict[int, list[dict[int, Logprob] | None]] = {}
        self._counts: dict[int, int] = {}
        """Tokens of each choice that has begun."""

    def whole(self, outputs: Sequence[RequestOutput]) -> Completion:
        choices = []
        for prompt_index, output in enumerate(outputs):
            self._take(prompt_index, output)
            for sequence in output.outputs:
                index = prompt_index * self._n + sequence.index
                echo = self._echoes[prompt_index] if self._body.echo else ""
                choices.append(
                    CompletionChoice(
                        index,
                        echo + sequence.text,
                        self._written(index, output, sequence),
                        sequence.finish_reason,
                        sequence.stop_reason,
                        sequence.token_ids if self._body.return_token_ids else None,
                        prompt_logprobs(output.prompt_logprobs),
                        output.prompt_token_ids if self._body.return_token_ids else None,
                    )
                )
        return Completion(
            **self._reply.head,
            choices=choices,
            system_fingerprint=self._reply.fingerprint,
            usage=self._reply.usage(in_stream=False),
            metrics=self._reply.metrics(),
        )

    async def chunks(self, outputs: AsyncGenerator[tuple[int, RequestOutput], None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(outputs):
            async for prompt_index, output in outputs:
                self._take(prompt_index, output)
                for sequence in output.outputs:
                    yield self._encode(self._chunk(prompt_index, output, sequence))
        if self._reply.usage_at_end:
            yield self._encode(
                CompletionChunk(
                    **self._reply.head,
                    choices=[],
                    usage=self._reply.usage(in_stream=True),
                    system_fingerprint=self._reply.fingerprint,
                    metrics=self._reply.metrics() or UNSET,
                )
            )
        yield sse.DONE

    def _take(self, prompt_index: int, output: RequestOutput) -> None:
        """Count an output; where the prompt was only to be scored, forget the token that had to be generated."""
        if output.prompt_logprobs is not None:
            self._prompt_entries[prompt_index] = output.prompt_logprobs
        if self._score_only:
            for sequence in output.outputs:
                sequence.text, sequence.token_ids, sequence.stop_reason = "", [], None
                sequence.logprobs = None if sequence.logprobs is None else []
                sequence.finish_reason = sequence.finish_reason and "length"
        self._reply.count(output)

    def _chunk(self, prompt_index: int, output: RequestOutput, sequence: CompletionOutput) -> CompletionChunk:
        index = prompt_index * self._n + sequence.index
        first = index not in self._counts
        self._counts[index] = self._counts.get(index, 0) + len(sequence.token_ids)
        echo = self._echoes[prompt_index] if self._body.echo and first else ""
        tells_ids = bool(self._body.return_token_ids)
        choice = CompletionChunkChoice(
            index,
            echo + sequence.text,
            self._written(index, output, sequence),
            sequence.finish_reason,
            sequence.stop_reason,
            output.prompt_token_ids if tells_ids and first else None,
            sequence.token_ids if tells_ids else None,
        )
        return CompletionChunk(
            **self._reply.head,
            choices=[choice],
            usage=self._usage(output, self._counts[index]),
            system_fingerprint=self._reply.signature(sequence.finish_reason),
        )

    def _usage(self, output: RequestOutput, generated: int) -> Usage | UnsetType:
        """That of one choice so far, on each chunk where it is asked for."""
        if not self._reply.usage_always:
            return UNSET
        length = len(output.prompt_token_ids)
        return Usage(length, length + generated, generated, UNSET, UNSET)

    def _written(self, index: int, output: RequestOutput, sequence: CompletionOutput) -> CompletionLogprobs | None:
        if self._body.logprobs is None or sequence.logprobs is None:
            return None
        ids: list[int] = sequence.token_ids
        entries: list[dict[int, Logprob] | None] = list(sequence.logprobs)
        if self._body.echo and index not in self._offsets:
            ids = output.prompt_token_ids + ids
            entries = [*self._prompt_entries[index // self._n], *entries]
        written, self._offsets[index] = self._logprobs.completion(ids, entries, self._offsets.get(index, 0))
        return written

    @staticmethod
    def _encode(chunk: CompletionChunk) -> bytes:
        return sse.event(msgspec.json.encode(chunk))
