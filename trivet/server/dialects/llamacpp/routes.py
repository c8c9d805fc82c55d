"""The routes of llama.cpp's own API."""

from __future__ import annotations

import secrets

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trivet.api.request import GenerateRequest
from trivet.server import sse
from trivet.server.body import decode, read_body
from trivet.server.collect import collect_all
from trivet.server.connection import while_connected
from trivet.server.dialects.llamacpp.answer import Answer
from trivet.server.dialects.llamacpp.errors import DIALECT
from trivet.server.dialects.llamacpp.parameters import sampling_params, settings
from trivet.server.dialects.llamacpp.prompts import encode_prompt, split_prompts
from trivet.server.dialects.llamacpp.schemas import CompletionBody, DetokenizeBody, TokenizeBody
from trivet.server.dialects.llamacpp.tokenize import detokenize, tokenize
from trivet.server.endpoint import Operation
from trivet.server.service import Service
from trivet.server.streams import merged


async def completion(service: Service, request: Request) -> Response:
    """The answer is an object, or a list of them where there were several prompts or sequences to make."""
    body = decode(await read_body(request, service.options.payload_limit), CompletionBody)
    prompts, as_list = split_prompts(body.prompt)
    given = settings(service, body)
    n = next((n for n in (body.n_cmpl, body.n) if n is not None), 1)
    service.check_count(len(prompts), n)
    requests = []
    for prompt in prompts:
        ids = await encode_prompt(service, prompt)
        service.check_length(ids)
        params = sampling_params(service, given, n, len(ids))
        salt = secrets.token_hex(8) if body.cache_prompt is False else ""
        requests.append(GenerateRequest(ids, params, request.state.request_id, cache_salt=salt))
    answer = Answer(service, given, n, bool(body.return_tokens), body.response_fields or [])
    outputs = merged([service.generate(one) for one in requests])
    if given.stream:
        return await sse.event_stream(request, answer.events(outputs), DIALECT.error_event)
    whole = await while_connected(request.receive, collect_all(outputs, len(requests)))
    results = [result for index, output in enumerate(whole) for result in answer.whole(index, output)]
    content = results if as_list or len(results) > 1 else results[0]
    return Response(msgspec.json.encode(content), media_type="application/json")


OPERATIONS = [
    Operation("/completion", completion, body=CompletionBody, generates=True),
    Operation("/completions", completion, body=CompletionBody, generates=True),
    Operation("/tokenize", tokenize, body=TokenizeBody, keys=frozenset({"content"})),
    Operation("/detokenize", detokenize, body=DetokenizeBody),
]
