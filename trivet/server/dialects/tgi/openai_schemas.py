"""Bodies of TGI's OpenAI-like API: chat and completions; field order is the order on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Struct, UnsetType

from trivet.server.dialects.tgi.schemas import Unsigned
from trivet.server.fields import meaningless, refused

ONE_FORM = "TGI's answer has no place for it"


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None


class OpenAIBody(Struct, kw_only=True):
    """What chat and completions requests share. None means the default."""

    model: str | None = None
    max_tokens: Unsigned | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: Unsigned | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    user: Annotated[str | None, meaningless("requests are not told apart by user")] = None


class ChatBody(OpenAIBody, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: Unsigned | None = None
    n: Unsigned | None = None
    logprobs: bool | None = None
    top_logprobs: Unsigned | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Any] | None, refused([], why="tools are not supported yet")] = None
    tool_choice: Annotated[Any, meaningless("without tools there is nothing to choose")] = None
    tool_prompt: Annotated[str | None, meaningless("it goes before tools, which are not supported yet")] = None
    parallel_tool_calls: Annotated[bool | None, meaningless("tools are not supported yet")] = None
    response_format: Annotated[
        dict[str, Any] | None, refused({"type": "text"}, why="grammars are not supported yet")
    ] = None


class CompletionBody(OpenAIBody, kw_only=True):
    prompt: str | list[str]
    suffix: Annotated[str | None, refused("", why="it can be achieved by preprocessing the prompt")] = None
    n: Annotated[int | None, refused(1, why="there is one choice for each prompt")] = None
    best_of: Annotated[int | None, refused(1, why="there is one choice for each prompt")] = None
    echo: Annotated[bool | None, refused(False, why=ONE_FORM)] = None
    logprobs: Annotated[int | bool | None, refused(0, why=ONE_FORM)] = None
    stream_options: Annotated[Any, meaningless("the last chunk of each prompt always has its usage")] = None


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Usage:
        return cls(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


class TopLogprob(Struct):
    token: str
    logprob: float


class TokenLogprob(Struct):
    token: str
    logprob: float
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[TokenLogprob]


class Message(Struct):
    role: str
    content: str


class ChatChoice(Struct):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatChunkChoice(Struct):
    index: int
    delta: Message
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: None
    finish_reason: str | None


class Reply(Struct, kw_only=True):
    """What every body begins with."""

    object: str
    id: str = ""
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Reply, kw_only=True):
    object: str = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(Reply, kw_only=True):
    object: str = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None


class Completion(Reply, kw_only=True):
    """The whole, or a chunk: there, only a prompt's last has a usage."""

    object: str = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | UnsetType = UNSET
