"""POST /v1/chat/completions, and /v1/chat/completions/batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect_all
from trivet.server.connection import while_connected
from trivet.server.dialects.openai.answers import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    Usage,
)
from trivet.server.dialects.openai.conversation import Message, last_text, render
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
from trivet.server.dialects.openai.schemas import ChatBatchBody, ChatBody, ChatOptions
from trivet.server.errors import Kind, Problem
from trivet.server.json_response import json_response
from trivet.server.service import Service
from trivet.server.streams import merged


async def chat_completions(service: Service, request: Request) -> Response:
    """Continue a conversation."""
    body = await read_json(request, service.options.payload_limit, ChatBody, strict=False)
    check_chat(service, body)
    reply = Reply.to(service, request, body, "chatcmpl")
    prompt, asked = await chat_request(service, request, body, body.messages, reply)
    answer = ChatAnswer(service, body, [body.messages], reply, prompt if body.return_prompt_text else None)
    outputs = service.generate(asked)
    if body.stream:
        return await sse.event_stream(request, answer.chunks(outputs), DIALECT.error_event)
    whole = await while_connected(request.receive, collect_all(merged([outputs]), 1))
    return json_response(answer.whole(whole), load_header(service, request))


async def chat_batch(service: Service, request: Request) -> Response:
    """Continue several conversations at once; the choices are in their order."""
    body = await read_json(request, service.options.payload_limit, ChatBatchBody, strict=False)
    check_batch(service, body)
    check_chat(service, body)
    reply = Reply.to(service, request, body, "chatcmpl")
    asked = [(await chat_request(service, request, body, messages, reply))[1] for messages in body.messages]
    outputs = merged([service.generate(one) for one in asked])
    whole = await while_connected(request.receive, collect_all(outputs, len(asked)))
    answer = ChatAnswer(service, body, body.messages, reply, None)
    return json_response(answer.whole(whole), load_header(service, request))


def check_chat(service: Service, body: ChatOptions) -> None:
    """Refuse what has nothing to do with the messages."""
    check_request(service, body)
    check_logprobs(service, body.top_logprobs, "top_logprobs")
    if body.top_logprobs and not body.logprobs:
        raise Problem(Kind.INVALID, "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")


def check_batch(service: Service, body: ChatBatchBody) -> None:
    """Refuse what the answer to several conversations has no place for."""
    limit = service.options.max_prompts
    if not 1 <= len(body.messages) <= limit:
        message = f"messages must hold 1 to {limit} conversations, got {len(body.messages)}"
        raise Problem(Kind.INVALID, message, "messages")
    if body.n not in (None, 1):
        message = "Batch chat completions do not support `n > 1`. Please set `n` to 1."
        raise Problem(Kind.INVALID, message, "n")
    for name in ("stream", "prompt_logprobs", "return_prompt_text"):
        value = getattr(body, name)
        if value is not None and value is not False:
            raise Problem(Kind.INVALID, f"Batch chat completions do not support `{name}`.", name)


async def chat_request(
    service: Service, request: Request, body: ChatOptions, messages: Sequence[Message], reply: Reply
) -> tuple[str, GenerateRequest]:
    """One conversation as its prompt and what to ask the engine."""
    variables: dict[str, Any] = {} if body.documents is None else {"documents": body.documents}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        variables["enable_thinking"] = body.reasoning_effort != "none"
    text = await render(service, messages, body, **variables)
    prompt = await service.encode(text, add_special=bool(body.add_special_tokens))
    prompt = fit_prompt(service, prompt, body, encoded=True)
    field = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    max_tokens = max_output_tokens(service, getattr(body, field), field, len(prompt))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = sampling_params(service, body, max_tokens, logprobs)
    return text, generate_request(request, body, prompt, params, reply.id)


class ChatAnswer:
    """Writes the engine's outputs as a completion, or, of one conversation, as the chunks of one.

    The choice of sequence i of conversation c has the index c * n + i. prompt_text: the prompt, if it is to be told.
    """

    def __init__(
        self,
        service: Service,
        body: ChatOptions,
        conversations: Sequence[Sequence[Message]],
        reply: Reply,
        prompt_text: str | None,
    ) -> None:
        self._body = body
        self._reply = reply
        self._prompt_text = prompt_text
        self._n = body.n or 1
        self._roles = [
            "assistant" if body.add_generation_prompt is not False else messages[-1]["role"]
            for messages in conversations
        ]
        self._echoes = [
            last_text(messages, role) if body.echo else ""
            for messages, role in zip(conversations, self._roles, strict=True)
        ]
        self._logprobs = LogprobsWriter(
            service.llm.tokenizer,
            -1 if body.logprob_token_ids else body.top_logprobs or 0,
            as_ids=service.options.tokens_as_ids or bool(body.return_tokens_as_token_ids),
        )
        self._counts = [0] * self._n

    def whole(self, outputs: Sequence[RequestOutput]) -> ChatCompletion:
        for output in outputs:
            self._reply.count(output)
        first, alone = outputs[0], len(outputs) == 1
        return ChatCompletion(
            **self._reply.head,
            choices=[
                ChatChoice(
                    number * self._n + sequence.index,
                    AnswerMessage(self._roles[number], self._echoes[number] + sequence.text),
                    self._written(sequence),
                    sequence.finish_reason,
                    sequence.stop_reason,
                    sequence.token_ids if self._body.return_token_ids else None,
                )
                for number, output in enumerate(outputs)
                for sequence in output.outputs
            ],
            system_fingerprint=self._reply.fingerprint,
            usage=self._reply.usage(in_stream=False),
            prompt_logprobs=prompt_logprobs(first.prompt_logprobs) if alone else None,
            prompt_token_ids=first.prompt_token_ids if alone and self._body.return_token_ids else None,
            prompt_text=self._prompt_text,
            metrics=self._reply.metrics(),
        )

    async def chunks(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        begun = False
        async with aclosing(outputs):
            async for output in outputs:
                self._reply.count(output)
                if not begun:
                    begun = True
                    for first in self._first_chunks(output):
                        yield self._encode(first)
                for sequence in output.outputs:
                    self._counts[sequence.index] += len(sequence.token_ids)
                    yield self._encode(self._delta_chunk(output, sequence))
        if self._reply.usage_at_end:
            yield self._encode(
                ChatChunk(
                    **self._reply.head,
                    choices=[],
                    usage=self._reply.usage(in_stream=True),
                    system_fingerprint=self._reply.fingerprint,
                    metrics=self._reply.metrics() or UNSET,
                )
            )
        yield sse.DONE

    def _first_chunks(self, output: RequestOutput) -> list[ChatChunk]:
        """The role, and what is echoed, of each choice."""
        [role], [echo] = self._roles, self._echoes
        usage = self._usage(output, 0)
        ids = output.prompt_token_ids if self._body.return_token_ids else None
        roles = [
            ChatChunk(
                **self._reply.head,
                choices=[ChatChunkChoice(index, Delta(role, ""), None, None)],
                usage=usage,
                prompt_token_ids=ids,
                prompt_text=self._prompt_text,
            )
            for index in range(self._n)
        ]
        echoes = [
            ChatChunk(
                **self._reply.head,
                choices=[ChatChunkChoice(index, Delta(content=echo), None, None)],
                usage=usage,
            )
            for index in range(self._n if echo else 0)
        ]
        return roles + echoes

    def _delta_chunk(self, output: RequestOutput, sequence: CompletionOutput) -> ChatChunk:
        return ChatChunk(
            **self._reply.head,
            choices=[
                ChatChunkChoice(
                    sequence.index,
                    Delta(content=sequence.text),
                    self._written(sequence),
                    sequence.finish_reason,
                    sequence.stop_reason if sequence.finish_reason is not None else UNSET,
                    sequence.token_ids if self._body.return_token_ids else None,
                )
            ],
            usage=self._usage(output, self._counts[sequence.index]),
            system_fingerprint=self._reply.signature(sequence.finish_reason),
        )

    def _usage(self, output: RequestOutput, generated: int) -> Usage | UnsetType:
        """That of one choice so far, on each chunk where it is asked for."""
        if not self._reply.usage_always:
            return UNSET
        length = len(output.prompt_token_ids)
        return Usage(length, length + generated, generated, UNSET, None)

    def _written(self, sequence: CompletionOutput) -> ChatLogprobs | None:
        if sequence.logprobs is None or not self._body.logprobs:
            return None
        return self._logprobs.chat(sequence.token_ids, sequence.logprobs)

    @staticmethod
    def _encode(chunk: ChatChunk) -> bytes:
        return sse.event(msgspec.json.encode(chunk))
