"""POST /v1/completions, as TGI answers it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.outputs import RequestOutput
from trivet.server import sse
from trivet.server.body import read_json
from trivet.server.dialects.tgi.errors import Refusal, openai_error_event
from trivet.server.dialects.tgi.openai_parameters import FINISH_REASONS, further_parameters, head, parameters
from trivet.server.dialects.tgi.openai_schemas import Completion, CompletionBody, CompletionChoice, Usage
from trivet.server.dialects.tgi.parameters import Generation, generation
from trivet.server.dialects.tgi.respond import compute_headers, run, stream, timing_headers
from trivet.server.dialects.tgi.tokens import TokenWriter
from trivet.server.errors import Kind, Problem
from trivet.server.fields import refuse_unsupported
from trivet.server.json_response import json_response
from trivet.server.service import Service
from trivet.server.streams import merged


async def completions(service: Service, request: Request) -> Response:
    """Continue one text, or each of several."""
    started = time.perf_counter()
    body = await read_json(request, service.options.payload_limit, CompletionBody)
    prompts = _prompts(service, body)
    answer = CompletionAnswer(service, body)
    if body.stream:

        async def chunks() -> AsyncGenerator[bytes, None]:
            validated = await _generations(service, body, prompts, in_stream=True)
            outputs = merged([service.generate(one.request(request.state.request_id)) for one in validated])
            async with aclosing(answer.chunks(validated, outputs)) as written:
                async for chunk in written:
                    yield chunk

        return await stream(service, request, chunks(), openai_error_event, prompts)
    validated = await _generations(service, body, prompts)
    outputs = await run(service, request, validated)
    headers = compute_headers(service, prompts) | timing_headers(started, validated, outputs)
    return json_response(answer.whole(validated, outputs), headers)


def _prompts(service: Service, body: CompletionBody) -> list[str]:
    if body.suffix:
        message = "Suffix is not supported and can be achieved by preprocessing the prompt."
        raise Refusal("suffix not supported", message, "suffix")
    refuse_unsupported(body)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise Problem(Kind.SCHEMA, "Empty array detected. Do not use an empty array for the prompt.", "prompt")
    limit = service.options.max_client_batch_size
    if len(prompts) > limit:
        message = f"Number of prompts exceeds the maximum allowed batch size of {limit}"
        raise Refusal("batch size exceeded", message, "prompt")
    return prompts


async def _generations(
    service: Service, body: CompletionBody, prompts: Sequence[str], in_stream: bool = False
) -> list[Generation]:
    given, further = parameters(body, body.max_tokens, 0), further_parameters(body)
    return [await generation(service, given, prompt, stream=in_stream, **further) for prompt in prompts]


class CompletionAnswer:
    """Writes the engine's outputs as a completion, or as the chunks of one; a choice's index is its prompt's."""

    def __init__(self, service: Service, body: CompletionBody) -> None:
        self._head = head(service, body)
        self._writer = TokenWriter(service.llm.tokenizer, 0)

    def whole(self, validated: Sequence[Generation], outputs: Sequence[RequestOutput]) -> Completion:
        choices = []
        for index, output in enumerate(outputs):
            [sequence] = output.outputs
            reason = validated[index].finish_reason(sequence, len(sequence.token_ids))
            choices.append(CompletionChoice(index, sequence.text, None, FINISH_REASONS[reason]))
        prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        completion_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return Completion(**self._head, choices=choices, usage=Usage.of(prompt_tokens, completion_tokens))

    async def chunks(
        self, validated: Sequence[Generation], outputs: AsyncGenerator[tuple[int, RequestOutput], None]
    ) -> AsyncGenerator[bytes, None]:
        """One chunk a token, those of the prompts as they come; each prompt's last has the usage of that prompt.

        As in OpenAI's API, special tokens have no text, and the others no finish reason: TGI writes both out, so
        that its streamed text is not the whole one.
        """
        generated: Counter[int] = Counter()
        async with aclosing(outputs):
            async for index, output in outputs:
                for sequence in output.outputs:
                    for step in self._writer.steps(sequence):
                        generated[index] += 1
                        chunk = Completion(**self._head, choices=[CompletionChoice(index, step.text, None, None)])
                        if step.last:
                            reason = validated[index].finish_reason(sequence, generated[index])
                            chunk.choices[0].finish_reason = FINISH_REASONS[reason]
                            chunk.usage = Usage.of(len(validated[index].prompt), generated[index])
                        yield sse.event(msgspec.json.encode(chunk))
        yield sse.DONE
