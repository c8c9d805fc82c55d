"""What Amazon's and Google's clouds ask a container: /invocations and /vertex."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trivet.server.body import body_keys, decode, read_body, read_json
from trivet.server.dialects.tgi.chat import chat_completions, chat_generation, render
from trivet.server.dialects.tgi.completions import completions
from trivet.server.dialects.tgi.errors import Refusal
from trivet.server.dialects.tgi.generate import compat_generate
from trivet.server.dialects.tgi.openai_schemas import ChatBody
from trivet.server.dialects.tgi.parameters import Generation, generation
from trivet.server.dialects.tgi.respond import run
from trivet.server.dialects.tgi.schemas import GenerateBody, Parameters, Predictions, VertexBody
from trivet.server.json_response import json_response
from trivet.server.service import Service


async def any_request(service: Service, request: Request) -> Response:
    """Do what the body's keys ask for: continue a text (`inputs`), answer a conversation (`messages`), or complete
    (`prompt`).
    """
    keys = body_keys(await read_body(request, service.options.payload_limit))
    if "inputs" not in keys and "messages" in keys:
        return await chat_completions(service, request)
    if "inputs" not in keys and "prompt" in keys:
        return await completions(service, request)
    return await compat_generate(service, request)


async def vertex(service: Service, request: Request) -> Response:
    """Continue texts and answer conversations: one prediction for each instance, sampled unless told otherwise."""
    body = await read_json(request, service.options.payload_limit, VertexBody)
    limit = service.options.max_prompts
    if not body.instances:
        raise Refusal("Input validation error", "Input validation error", "instances")
    if len(body.instances) > limit:
        message = f"Number of instances exceeds the maximum allowed batch size of {limit}"
        raise Refusal("batch size exceeded", message, "instances")
    validated = [await _instance(service, bytes(instance)) for instance in body.instances]
    outputs = await run(service, request, validated)
    return json_response(Predictions([output.outputs[0].text for output in outputs]))


async def _instance(service: Service, instance: bytes) -> Generation:
    if "messages" in body_keys(instance):
        chat = decode(instance, ChatBody)
        return await chat_generation(service, chat, await render(service, chat))
    given = decode(instance, GenerateBody)
    asked = given.parameters or Parameters()
    if asked.do_sample is None:
        asked.do_sample = True
    return await generation(service, asked, given.inputs)
