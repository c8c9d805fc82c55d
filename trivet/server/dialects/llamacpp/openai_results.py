"""What llama.cpp answers to requests of the OpenAI API; field order is the order on the wire."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

from trivet.server.dialects.llamacpp.results import (
    FinalResult,
    PartialResult,
    PromptProgress,
    Timings,
    TokenProbability,
)


class PromptTokensDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Logprobs(Struct):
    content: list[TokenProbability]


class TextChoice(Struct):
    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: str | None


class Text(Struct, kw_only=True):
    """A completion, or a chunk of one; `usage` comes with the last."""

    choices: list[TextChoice]
    created: int
    model: str
    system_fingerprint: str
    object: str = "text_completion"
    usage: Usage | UnsetType = UNSET
    id: str
    verbose: FinalResult | PartialResult | UnsetType = field(name="__verbose", default=UNSET)
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


class Message(Struct):
    role: str
    content: str


class ChatChoice(Struct):
    finish_reason: str
    index: int
    message: Message
    logprobs: Logprobs | UnsetType = UNSET


class Chat(Struct, kw_only=True):
    choices: list[ChatChoice]
    created: int
    model: str
    system_fingerprint: str
    object: str = "chat.completion"
    usage: Usage
    id: str
    verbose: FinalResult | UnsetType = field(name="__verbose", default=UNSET)
    timings: Timings


class Delta(Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET


class ChatChunkChoice(Struct):
    finish_reason: str | None
    index: int
    delta: Delta
    logprobs: Logprobs | UnsetType = UNSET


class ChatChunk(Struct, kw_only=True):
    choices: list[ChatChunkChoice]
    created: int
    id: str
    model: str
    system_fingerprint: str
    object: str = "chat.completion.chunk"
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    verbose: FinalResult | UnsetType = field(name="__verbose", default=UNSET)
