"""Bodies of the OpenAI API's requests, with vLLM's extensions. None means the default.

Fields of unknown names are accepted, as OpenAI and vLLM do; known ones that would change the answer in a way not
supported here are declared `refused`. As with vLLM, which is not strict, "5" and 5.0 will do for an integer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from trivet.sampling.vllm_params import RepetitionDetectionParams
from trivet.server.fields import meaningless, partly, refused

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

_GRAMMAR = "output cannot be made to follow a grammar or schema yet"
_LLAMACPP = "it is llama.cpp's; start the server without --dialect, or with --dialect llamacpp, to use it"
_MEDIA = "the model takes text only"
_NO_STORE = "nothing is kept of a request once it has been answered"
_NO_USERS = "requests are not told apart by who sent them"
_TEMPLATE = "not under `trivet vllm serve`, unless with --trust-request-chat-template"
_THINKING = "thoughts are not told apart from the answer yet"
_TOOLS = "tools cannot be called yet"
_TRANSFER = "caches are not moved between servers"


class LlamacppFields(Struct, kw_only=True):
    """Fields of llama.cpp's: requests with one of them are for its dialect, except where this one is pinned."""

    adaptive_target: Annotated[Any, refused(-1, why=_LLAMACPP)] = None
    dry_multiplier: Annotated[Any, refused(0, why=_LLAMACPP)] = None
    dynatemp_range: Annotated[Any, refused(0, why=_LLAMACPP)] = None
    grammar: Annotated[Any, refused("", why=_GRAMMAR)] = None
    json_schema: Annotated[Any, refused(why=_GRAMMAR)] = None
    mirostat: Annotated[Any, refused(0, why=_LLAMACPP)] = None
    n_predict: Annotated[Any, refused(-1, why=f"{_LLAMACPP}, or say max_tokens")] = None
    repeat_penalty: Annotated[Any, refused(1, why=f"{_LLAMACPP}, or say repetition_penalty")] = None
    samplers: Annotated[Any, refused(why=_LLAMACPP)] = None
    t_max_predict_ms: Annotated[Any, refused(-1, 0, why=_LLAMACPP)] = None
    top_n_sigma: Annotated[Any, refused(-1, 0, why=_LLAMACPP)] = None
    xtc_probability: Annotated[Any, refused(0, why=_LLAMACPP)] = None


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[bool | None, meaningless("streams are not padded")] = None


class GenerationBody(LlamacppFields, kw_only=True):
    """What chat and completions requests share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    response_format: Annotated[Any, refused({"type": "text"}, why=_GRAMMAR)] = None
    user: Annotated[Any, meaningless(_NO_USERS)] = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: Annotated[bool | None, meaningless("no text has spaces between special tokens")] = (
        None
    )
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    add_special_tokens: bool | None = None
    priority: Int64 | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    session_id: Annotated[Any, meaningless("there is one engine, whatever the session")] = None
    repetition_detection: RepetitionDetectionParams | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    stream_interval: Annotated[int, Meta(ge=1)] | None = None

    best_of: Annotated[int | None, partly("it must be n, for there is no choosing among more")] = None
    use_beam_search: Annotated[Any, refused(False, why="there is no beam search behind this API")] = None
    length_penalty: Annotated[Any, meaningless("it is beam search's")] = None
    structured_outputs: Annotated[Any, refused(why=_GRAMMAR)] = None
    guided_json: Annotated[Any, refused(why=_GRAMMAR)] = None
    guided_regex: Annotated[Any, refused(why=_GRAMMAR)] = None
    guided_choice: Annotated[Any, refused(why=_GRAMMAR)] = None
    guided_grammar: Annotated[Any, refused(why=_GRAMMAR)] = None
    thinking_token_budget: Annotated[Any, refused(-1, why=_THINKING)] = None
    kv_transfer_params: Annotated[Any, refused({}, why=_TRANSFER)] = None
    ec_transfer_params: Annotated[Any, refused({}, why=_TRANSFER)] = None
    vllm_xargs: Annotated[Any, refused({}, why="there are no extensions that read them")] = None
    watermarking: Annotated[Any, refused(False, why="text cannot be watermarked through this API")] = None
    routed_experts_prompt_start: Annotated[Any, meaningless("experts are not reported")] = None
    return_token_offsets: Annotated[Any, meaningless("only vLLM's /render answers have offsets")] = None


class CompletionBody(GenerationBody, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Annotated[Any, refused("", why="text cannot be inserted before a suffix here")] = None
    prompt_embeds: Annotated[Any, refused([], why="prompts are text or token ids")] = None


class ChatOptions(GenerationBody, kw_only=True):
    """All of a chat request but its messages."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str | None, partly(_TEMPLATE)] = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    return_prompt_text: bool | None = None

    tools: Annotated[list[dict[str, Any]] | None, partly('the model is told of them; tool_choice must be "none"')] = (
        None
    )
    tool_choice: Annotated[Any, refused("none", why=_TOOLS)] = None
    parallel_tool_calls: Annotated[Any, meaningless(_TOOLS)] = None
    functions: Annotated[Any, refused([], why=_TOOLS)] = None
    function_call: Annotated[Any, refused("none", why=_TOOLS)] = None
    include_reasoning: Annotated[Any, refused(True, why=_THINKING)] = None
    audio: Annotated[Any, refused(why=_MEDIA)] = None
    modalities: Annotated[Any, refused(["text"], why=_MEDIA)] = None
    mm_processor_kwargs: Annotated[Any, refused({}, why=_MEDIA)] = None
    media_io_kwargs: Annotated[Any, refused({}, why=_MEDIA)] = None
    web_search_options: Annotated[Any, refused(why="nothing is looked up")] = None
    verbosity: Annotated[Any, refused("medium", why="ask for it in the messages")] = None
    prediction: Annotated[Any, meaningless("it would make an answer faster, not another one")] = None
    metadata: Annotated[Any, meaningless(_NO_STORE)] = None
    store: Annotated[Any, meaningless(_NO_STORE)] = None
    service_tier: Annotated[Any, meaningless("all requests are served alike; see priority")] = None
    safety_identifier: Annotated[Any, meaningless(_NO_USERS)] = None
    prompt_cache_key: Annotated[Any, meaningless("prompts are found in the cache by what they say")] = None
    prompt_cache_retention: Annotated[Any, meaningless("prompts stay cached as long as there is room")] = None


class ChatBody(ChatOptions, kw_only=True):
    messages: list[dict[str, Any]]


class ChatBatchBody(ChatOptions, kw_only=True):
    """Several conversations, each with one answer."""

    messages: list[list[dict[str, Any]]]


class TokenizeBody(Struct, kw_only=True):
    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatBody(Struct, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str | None, partly(_TEMPLATE)] = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    mm_processor_kwargs: Annotated[Any, refused({}, why=_MEDIA)] = None
    media_io_kwargs: Annotated[Any, refused({}, why=_MEDIA)] = None


class DetokenizeBody(Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None
