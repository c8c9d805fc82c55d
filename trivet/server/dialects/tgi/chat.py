"""POST /v1/chat/completions, as TGI answers it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import RequestOutput
from trivet.errors import RequestError
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.dialects.tgi.errors import Refusal, TemplateError, openai_error_event
from trivet.server.dialects.tgi.openai_parameters import FINISH_REASONS, further_parameters, head, parameters
from trivet.server.dialects.tgi.openai_schemas import (
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Message,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from trivet.server.dialects.tgi.parameters import Generation, generation
from trivet.server.dialects.tgi.respond import compute_headers, compute_time, run, stream, timing_headers
from trivet.server.dialects.tgi.schemas import Token
from trivet.server.dialects.tgi.tokens import TokenWriter
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service


async def chat_completions(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    started = time.perf_counter()
    body = await read_json(request, service.options.payload_limit, ChatBody)
    prompt = await render(service, body)
    answer = ChatAnswer(service, body)
    if body.stream:

        async def chunks() -> AsyncGenerator[bytes, None]:
            validated = await chat_generation(service, body, prompt, in_stream=True)
            outputs = service.generate(validated.request(request.state.request_id))
            async with aclosing(answer.chunks(validated, outputs)) as written:
                async for chunk in written:
                    yield chunk

        return await stream(service, request, chunks(), openai_error_event, prompt)
    validated = await chat_generation(service, body, prompt)
    [output] = await run(service, request, [validated])
    headers = compute_headers(service, prompt) | timing_headers(started, [validated], [output])
    return json_response(answer.whole(validated, output), headers | compute_time(started))


async def render(service: Service, body: ChatBody) -> str:
    """The conversation as the model's template writes it; where the assistant spoke last, it goes on speaking.

    Raises Problem for what the template cannot read, and for what is not supported.
    """
    if body.response_format not in (None, {"type": "text"}) and body.tools is not None:
        raise Refusal("tool_error", "Tool error: Grammar and tools are mutually exclusive", "tools")
    if body.tool_choice == "none":
        body.tools = None
    refuse_unsupported(body)
    messages = [{**message, "content": _text(message.get("content"))} for message in body.messages]
    goes_on = bool(messages) and messages[-1].get("role") == "assistant" and bool(messages[-1]["content"])
    try:
        return await service.render(messages, add_generation_prompt=not goes_on, continue_final_message=goes_on)
    except RequestError as error:
        raise TemplateError(str(error), error.parameter) from None


async def chat_generation(service: Service, body: ChatBody, prompt: str, in_stream: bool = False) -> Generation:
    """Raises Problem for the first rule of TGI's that is broken."""
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    given = parameters(body, max_tokens, body.top_logprobs or 0)
    further = further_parameters(body)
    if body.n is not None:
        further["n"] = body.n
    return await generation(service, given, prompt, stream=in_stream, add_special=False, **further)


class ChatAnswer:
    """Writes the engine's outputs as a completion, or as the chunks of one."""

    def __init__(self, service: Service, body: ChatBody) -> None:
        self._head = head(service, body)
        self._tells_logprobs = bool(body.logprobs)
        self._tells_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._writer = TokenWriter(service.llm.tokenizer, body.top_logprobs or 0)

    def whole(self, validated: Generation, output: RequestOutput) -> ChatCompletion:
        choices = []
        for sequence in output.outputs:
            tokens, top = self._writer.tokens(sequence), self._writer.top_tokens(sequence)
            reason = validated.finish_reason(sequence, len(tokens))
            choices.append(
                ChatChoice(
                    sequence.index,
                    Message("assistant", sequence.text),
                    self._logprobs(tokens, top or [[]] * len(tokens)),
                    FINISH_REASONS[reason],
                )
            )
        generated = sum(len(sequence.token_ids) for sequence in output.outputs)
        return ChatCompletion(**self._head, choices=choices, usage=Usage.of(len(output.prompt_token_ids), generated))

    async def chunks(
        self, validated: Generation, outputs: AsyncGenerator[RequestOutput, None]
    ) -> AsyncGenerator[bytes, None]:
        """One chunk a token, each with the role; special tokens have no text."""
        generated: Counter[int] = Counter()
        async with aclosing(outputs):
            async for output in outputs:
                for sequence in output.outputs:
                    for step in self._writer.steps(sequence):
                        generated[sequence.index] += 1
                        reason = validated.finish_reason(sequence, generated[sequence.index]) if step.last else None
                        choice = ChatChunkChoice(
                            sequence.index,
                            Message("assistant", step.text),
                            self._logprobs([step.token], [step.top]),
                            FINISH_REASONS[reason] if reason else None,
                        )
                        yield self._chunk([choice])
        if self._tells_usage:
            yield self._chunk([], Usage.of(len(validated.prompt), generated.total()))
        yield sse.DONE

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> bytes:
        return sse.event(msgspec.json.encode(ChatChunk(**self._head, choices=choices, usage=usage)))

    def _logprobs(self, tokens: list[Token], top: list[list[Token]]) -> ChatLogprobs | None:
        if not self._tells_logprobs:
            return None
        return ChatLogprobs(
            [
                TokenLogprob(token.text, token.logprob, [TopLogprob(one.text, one.logprob) for one in best])
                for token, best in zip(tokens, top, strict=True)
            ]
        )


def _text(content: Any) -> Any:
    """Parts are put together without anything between them. What is of no known form is left to the template."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content
    if any(part.get("type") == "image_url" for part in content):
        raise Problem(Kind.INVALID, "image modality is not supported", "messages")
    texts = [part.get("text") if part.get("type") == "text" else None for part in content]
    return content if None in texts else "".join(map(str, texts))
