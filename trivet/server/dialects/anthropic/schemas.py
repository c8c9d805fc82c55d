"""Bodies of Anthropic's Messages API; a struct's tag is the `type` on the wire.

Unlike the other dialects', a request's fields of unknown names are refused, as that API does; llama.cpp's server, which
has this API too, is less strict.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct

from trivet.server.fields import meaningless, refused


class Block(Struct, kw_only=True):
    """A block of a request: `text`, or `thinking` in an assistant's turn. Those of other types are refused."""

    type: str
    text: str | None = None
    thinking: str | None = None
    cache_control: Annotated[Any, meaningless("every prefix is cached")] = None
    citations: Annotated[Any, meaningless("the model does not read them")] = None


class Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Conversation(Struct, kw_only=True):
    """What both requests have, however strict the server is."""

    messages: list[Turn]
    system: str | list[Block] | None = None
    thinking: Annotated[
        dict[str, Any] | None, refused({"type": "disabled"}, why="thoughts are not told apart from the answer yet")
    ] = None
    tools: Annotated[list[Any] | None, refused([], why="tools are not called yet")] = None
    tool_choice: Annotated[
        dict[str, Any] | None, refused({"type": "none"}, {"type": "auto"}, why="tools are not called yet")
    ] = None
    mcp_servers: Annotated[list[Any] | None, refused([], why="tools are not called yet")] = None
    output_config: Annotated[
        dict[str, Any] | None, refused({}, why="neither effort nor a format of the answer can be asked for yet")
    ] = None
    output_format: Annotated[Any, refused(why="no format of the answer can be asked for yet")] = None
    context_management: Annotated[Any, refused({}, {"edits": []}, why="conversations are taken as they are")] = None
    compaction: Annotated[Any, refused(why="conversations are taken as they are")] = None
    thread: Annotated[Any, refused(why="conversations are not kept")] = None
    speed: Annotated[str | None, refused("standard", why="there is one speed")] = None
    cache_control: Annotated[Any, meaningless("every prefix is cached")] = None
    user_profile_id: Annotated[str | None, meaningless("requests are not told apart by user")] = None
    workspace_id: Annotated[str | None, meaningless("there are no workspaces")] = None


class CountTokensBody(Conversation, kw_only=True, forbid_unknown_fields=True):
    model: str


class MessageOptions(Conversation, kw_only=True):
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    container: Annotated[Any, refused(why="there are no containers")] = None
    fallbacks: Annotated[Any, refused([], why="one model is served")] = None
    fallback_credit_token: Annotated[Any, refused(why="one model is served")] = None
    diagnostics: Annotated[Any, refused({}, why="the cache's misses are not explained")] = None
    inference_geo: Annotated[str | None, refused(why="the server does not know where it is")] = None
    metadata: Annotated[dict[str, Any] | None, meaningless("requests are not told apart by user")] = None
    service_tier: Annotated[str | None, meaningless("there is one tier")] = None
    billing_policy: Annotated[Any, meaningless("nothing is billed")] = None


class MessagesBody(MessageOptions, kw_only=True, forbid_unknown_fields=True):
    model: str
    max_tokens: int


class Usage(Struct, kw_only=True):
    """The prompt has input_tokens + cache_read_input_tokens tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


class TextBlock(Struct, tag="text"):
    text: str


class Message(Struct, kw_only=True, tag="message"):
    id: str
    role: str = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: Usage


class MessageStart(Struct, tag="message_start"):
    message: Message


class ContentBlockStart(Struct, tag="content_block_start"):
    index: int
    content_block: TextBlock


class Ping(Struct, tag="ping"):
    pass


class TextDelta(Struct, tag="text_delta"):
    text: str


class ContentBlockDelta(Struct, tag="content_block_delta"):
    index: int
    delta: TextDelta


class ContentBlockStop(Struct, tag="content_block_stop"):
    index: int


class StopDelta(Struct):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(Struct, tag="message_delta"):
    """`usage` counts from the beginning of the message."""

    delta: StopDelta
    usage: Usage


class MessageStop(Struct, tag="message_stop"):
    pass


class TokenCount(Struct):
    input_tokens: int


class Model(Struct, kw_only=True, tag="model"):
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int
    lifecycle: str = "active"


class ModelPage(Struct):
    data: list[Model]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ErrorDetails(Struct):
    type: str
    message: str


class ErrorBody(Struct, tag="error"):
    error: ErrorDetails
    request_id: str | None
