"""Bodies of OpenAI's Responses API, with vLLM's extensions; a struct's tag is the `type` on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from trivet.server.dialects.openai.answers import TokenLogprob
from trivet.server.dialects.openai.schemas import Int64
from trivet.server.fields import meaningless, partly, refused

NO_TOOLS = "tools are not called yet"
NO_REASONING = "thoughts are not told apart from the answer yet"


class InputPart(Struct):
    """A part of a request's message; those of types other than text are refused."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Struct, kw_only=True):
    """An item of a request's input; those of types other than message are refused."""

    type: str = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None


class Reasoning(Struct, kw_only=True):
    effort: Annotated[str | None, refused("none", why=NO_REASONING)] = None
    summary: Annotated[str | None, refused(why=NO_REASONING)] = None
    generate_summary: Annotated[str | None, refused(why=NO_REASONING)] = None
    context: Annotated[str | None, refused("auto", why=NO_REASONING)] = None
    mode: Annotated[str | None, refused("standard", why=NO_REASONING)] = None


class TextConfig(Struct, kw_only=True):
    format: Annotated[
        dict[str, Any] | None, refused({"type": "text"}, why="no other format of the answer can be asked for yet")
    ] = None
    verbosity: Annotated[str | None, refused("medium", why="how much is said is up to the model")] = None


class InputTokensBody(Struct, kw_only=True):
    """What requests for a response and for the number of its prompt's tokens share."""

    model: str | None = None
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        partly('"auto" drops whole turns, the oldest first; it cuts no message, so the last turn must fit'),
    ] = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    tools: Annotated[list[Any] | None, refused([], why=NO_TOOLS)] = None
    tool_choice: Annotated[Any, refused("auto", "none", why=NO_TOOLS)] = None
    conversation: Annotated[Any, refused(why="conversations go on by previous_response_id")] = None
    prompt: Annotated[Any, refused(why="there are no prompt templates")] = None
    personality: Annotated[Any, refused(why="the model has the one it has")] = None
    parallel_tool_calls: Annotated[bool | None, meaningless(NO_TOOLS)] = None


class ResponsesBody(InputTokensBody, kw_only=True):
    input: str | list[InputItem]
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None

    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Int64 | None = None
    cache_salt: str | None = None
    request_id: Annotated[str, Meta(pattern=r"^resp_[!-~]{1,128}$")] | None = None

    background_options: Annotated[
        Any, refused({}, {"completion_window": "soonest"}, why="what runs in the background runs as soon as it can")
    ] = None
    context_management: Annotated[Any, refused([], why="conversations are taken as they are")] = None
    moderation: Annotated[Any, refused(why="nothing is moderated")] = None
    access_programs: Annotated[Any, refused(why="there are none")] = None
    structured_outputs: Annotated[Any, refused(why="no format of the answer can be asked for yet")] = None
    previous_input_messages: Annotated[Any, refused([], why="conversations go on by previous_response_id")] = None
    enable_response_messages: Annotated[Any, refused(False)] = None
    mm_processor_kwargs: Annotated[Any, refused({}, why="images and audio are not supported yet")] = None
    vllm_xargs: Annotated[Any, refused({}, why="there are no plugins")] = None
    max_tool_calls: Annotated[int | None, meaningless(NO_TOOLS)] = None
    image: Annotated[Any, meaningless("no images are taken")] = None
    stream_options: Annotated[Any, meaningless("events are not padded against eavesdroppers")] = None
    service_tier: Annotated[str | None, meaningless("there is one tier")] = None
    user: Annotated[str | None, meaningless("requests are not told apart by user")] = None
    safety_identifier: Annotated[str | None, meaningless("requests are not told apart by user")] = None
    prompt_cache_key: Annotated[str | None, meaningless("every prefix is cached")] = None
    prompt_cache_options: Annotated[Any, meaningless("every prefix is cached")] = None
    prompt_cache_retention: Annotated[Any, meaningless("every prefix is cached")] = None


class InputText(Struct, tag="input_text"):
    text: str


class OutputText(Struct, tag="output_text"):
    text: str
    annotations: list[None] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Item(Struct, tag="message"):
    """A message, the model's or the client's."""

    id: str
    status: str
    role: str
    content: list[InputText | OutputText]


class ResponseError(Struct):
    code: str
    message: str


class IncompleteDetails(Struct):
    reason: str


class InputTokensDetails(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    reasoning_tokens: int = 0


class Usage(Struct):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Response(Struct, kw_only=True):
    """`status` is queued, in_progress, completed, incomplete, failed or cancelled."""

    id: str
    object: str = "response"
    created_at: int
    status: str
    background: bool
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[Item] = field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: dict[str, Any] = field(default_factory=lambda: {"format": {"type": "text"}, "verbosity": "medium"})
    tool_choice: str
    tools: list[None] = field(default_factory=list)
    top_logprobs: int
    top_p: float
    truncation: str
    usage: Usage | None = None
    user: str | None
    metadata: dict[str, str]


class StoredResponse(Struct):
    """What is kept of a response. input: all that the model read but the instructions."""

    response: Response
    input: list[Item]


class ItemPage(Struct, kw_only=True):
    object: str = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(Struct):
    id: str
    object: str = "response"
    deleted: bool = True


class InputTokens(Struct):
    input_tokens: int
    object: str = "response.input_tokens"
