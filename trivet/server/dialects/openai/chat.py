"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import CompletionOutput, RequestOutput
from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.collect import collect
from trivet.server.connection import while_connected
from trivet.server.dialects.openai.errors import DIALECT
from trivet.server.dialects.openai.logprobs import LogprobsWriter, prompt_logprobs
from trivet.server.dialects.openai.reply import Reply
from trivet.server.dialects.openai.requests import (
    check_logprobs,
    check_request,
    fit_prompt,
    max_output_tokens,
    sampling_params,
)
from trivet.server.dialects.openai.schemas import (
    AnswerMessage,
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
)
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


async def chat_completions(service: Service, request: Request) -> Response:
    body = await read_json(request, service.options.payload_limit, ChatBody)
    check_request(service, body)
    check_logprobs(service, body.top_logprobs, "top_logprobs")
    if body.top_logprobs and not body.logprobs:
        raise Problem(Kind.INVALID, "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    prompt = await service.encode(render(service, body), add_special=bool(body.add_special_tokens))
    prompt = fit_prompt(service, prompt, body.truncate_prompt_tokens)
    field = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    max_tokens = max_output_tokens(service, getattr(body, field), field, len(prompt))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    reply = Reply.to(service, request, body, "chatcmpl")
    outputs = service.generate(
        GenerateRequest(
            prompt=prompt,
            params=sampling_params(service, body, max_tokens, logprobs),
            request_id=reply.id,
            priority=body.priority or 0,
            cache_salt=body.cache_salt or "",
        )
    )
    answer = ChatAnswer(service, body, reply)
    if body.stream:
        return await sse.event_stream(request, answer.chunks(outputs), DIALECT.error_event)
    whole = await while_connected(request.receive, collect(outputs))
    return Response(msgspec.json.encode(answer.whole(whole)), media_type="application/json")


def render(service: Service, body: ChatBody) -> str:
    """The conversation as the model's template writes it. Raises RequestError for what it cannot read."""
    variables: dict[str, Any] = {
        "add_generation_prompt": body.add_generation_prompt is not False,
        "continue_final_message": bool(body.continue_final_message),
        "documents": body.documents,
    }
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        variables["enable_thinking"] = body.reasoning_effort != "none"
    given = body.chat_template_kwargs or {}
    for name in ("messages", "tools"):
        if name in given:
            raise Problem(Kind.INVALID, f"chat_template_kwargs must not hold {name!r}", "chat_template_kwargs")
    return service.llm.chat_template.render(body.messages, **variables | given)


class ChatAnswer:
    """Writes the engine's outputs as a completion, or as the chunks of one."""

    def __init__(self, service: Service, body: ChatBody, reply: Reply) -> None:
        self._body = body
        self._reply = reply
        self._n = body.n or 1
        options = body.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._logprobs = LogprobsWriter(
            service.llm.tokenizer, body.top_logprobs or 0, bool(body.return_tokens_as_token_ids)
        )

    def whole(self, output: RequestOutput) -> ChatCompletion:
        self._reply.count(output)
        return ChatCompletion(
            **self._reply.head,
            choices=[
                ChatChoice(
                    sequence.index,
                    AnswerMessage("assistant", sequence.text),
                    self._written(sequence),
                    sequence.finish_reason,
                    sequence.stop_reason,
                    sequence.token_ids if self._body.return_token_ids else None,
                )
                for sequence in output.outputs
            ],
            system_fingerprint=self._reply.fingerprint,
            usage=self._reply.usage(in_stream=False),
            prompt_logprobs=prompt_logprobs(output.prompt_logprobs),
            prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else None,
        )

    async def chunks(self, outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[bytes, None]:
        begun = False
        async with aclosing(outputs):
            async for output in outputs:
                self._reply.count(output)
                if not begun:
                    begun = True
                    for index in range(self._n):
                        yield self._role_chunk(index, output)
                for sequence in output.outputs:
                    if (choice := self._delta(sequence)) is not None:
                        yield self._chunk(choice)
        if self._usage_at_end:
            yield self._encode(
                ChatChunk(
                    **self._reply.head,
                    choices=[],
                    usage=self._reply.usage(in_stream=True),
                    system_fingerprint=self._reply.fingerprint,
                )
            )
        yield sse.DONE

    def _role_chunk(self, index: int, output: RequestOutput) -> bytes:
        return self._encode(
            ChatChunk(
                **self._reply.head,
                choices=[ChatChunkChoice(index, Delta("assistant", ""), None, None)],
                usage=self._reply.usage(in_stream=True) if self._usage_always else UNSET,
                prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else None,
                prompt_text=None,
            )
        )

    def _delta(self, sequence: CompletionOutput) -> ChatChunkChoice | None:
        """None when there is nothing to tell yet, as when half a character has come."""
        tells_tokens = self._body.logprobs or self._body.return_token_ids
        ended = sequence.finish_reason is not None
        if not (sequence.text or ended or (tells_tokens and sequence.token_ids)):
            return None
        return ChatChunkChoice(
            sequence.index,
            Delta(content=sequence.text),
            self._written(sequence),
            sequence.finish_reason,
            sequence.stop_reason if ended else UNSET,
            sequence.token_ids if self._body.return_token_ids else None,
        )

    def _chunk(self, choice: ChatChunkChoice) -> bytes:
        signed = choice.finish_reason is not None and not self._usage_at_end
        return self._encode(
            ChatChunk(
                **self._reply.head,
                choices=[choice],
                usage=self._reply.usage(in_stream=True) if self._usage_always else UNSET,
                system_fingerprint=self._reply.fingerprint if signed else UNSET,
            )
        )

    def _written(self, sequence: CompletionOutput) -> ChatLogprobs | None:
        if sequence.logprobs is None or not self._body.logprobs:
            return None
        return self._logprobs.chat(sequence.token_ids, sequence.logprobs)

    @staticmethod
    def _encode(chunk: ChatChunk) -> bytes:
        return sse.event(msgspec.json.encode(chunk))
