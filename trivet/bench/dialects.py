"""How to ask for a stream of text in each dialect, and how to read it: documented wire shapes and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from trivet.bench.client import Failure, describe


@dataclass(frozen=True)
class Options:
    """What all requests have in common.

    model: as the server calls it; None where the dialect names none. temperature: None leaves it to the server.
    """

    model: str | None = None
    ignore_eos: bool = True
    temperature: float | None = None


class Event(NamedTuple):
    """What an event of a stream says: whether it brings tokens, and the counts it reports."""

    token: bool
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Dialect:
    """path: what is posted to. body: makes what is posted from prompt, tokens to make, and options.
    read: an event's data, never "[DONE]"; raises Failure for an error that came in the stream.
    """

    path: str
    body: Callable[[str, int, Options], dict[str, Any]]
    read: Callable[[bytes], Event]
    names_model: bool = False


def openai_body(prompt: str, tokens: int, options: Options) -> dict[str, Any]:
    return {"prompt": prompt, **_openai_common(tokens, options)}


def openai_chat_body(prompt: str, tokens: int, options: Options) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **_openai_common(tokens, options)}


def _openai_common(tokens: int, options: Options) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": options.model,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.ignore_eos:
        body["ignore_eos"] = True
    if options.temperature is not None:
        body["temperature"] = options.temperature
    return body


def tgi_body(prompt: str, tokens: int, options: Options) -> dict[str, Any]:
    parameters: dict[str, Any] = {"max_new_tokens": tokens, "details": True}
    if options.temperature == 0:
        parameters["do_sample"] = False
    elif options.temperature is not None:
        parameters |= {"do_sample": True, "temperature": options.temperature}
    return {"inputs": prompt, "parameters": parameters}


def llamacpp_body(prompt: str, tokens: int, options: Options) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": prompt, "n_predict": tokens, "stream": True}
    if options.ignore_eos:
        body["ignore_eos"] = True
    if options.temperature is not None:
        body["temperature"] = options.temperature
    return body


class Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class OpenAIEvent(Struct):
    choices: list[Raw] | None = None
    usage: Usage | None = None
    error: Any = None


class TGIDetails(Struct):
    generated_tokens: int | None = None
    input_length: int | None = None


class TGIEvent(Struct):
    token: Raw = Raw(b"null")
    details: TGIDetails | None = None
    error: Any = None


class LlamaCppEvent(Struct):
    stop: bool = False
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    error: Any = None


def reader(shape: type[Any], read: Callable[[Any], Event]) -> Callable[[bytes], Event]:
    decode = msgspec.json.Decoder(shape).decode

    def read_event(data: bytes) -> Event:
        try:
            event = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Failure("malformed answer", f"an event is not what the dialect says: {error}") from None
        if event.error is not None:
            raise Failure("error in stream", describe(event.error))
        return read(event)

    return read_event


def _openai_event(event: OpenAIEvent) -> Event:
    usage = event.usage or Usage()
    return Event(bool(event.choices), usage.prompt_tokens, usage.completion_tokens)


def _tgi_event(event: TGIEvent) -> Event:
    details = event.details or TGIDetails()
    return Event(bytes(event.token) != b"null", details.input_length, details.generated_tokens)


def _llamacpp_event(event: LlamaCppEvent) -> Event:
    # The last event brings the numbers and no token.
    return Event(not event.stop, event.tokens_evaluated, event.tokens_predicted)


DIALECTS = {
    "openai": Dialect("/v1/completions", openai_body, reader(OpenAIEvent, _openai_event), names_model=True),
    "openai-chat": Dialect(
        "/v1/chat/completions", openai_chat_body, reader(OpenAIEvent, _openai_event), names_model=True
    ),
    "tgi": Dialect("/generate_stream", tgi_body, reader(TGIEvent, _tgi_event)),
    "llamacpp": Dialect("/completion", llamacpp_body, reader(LlamaCppEvent, _llamacpp_event)),
}
