"""Bodies of llama.cpp's requests.

Null means absent, and fields of unknown names are ignored, as llama.cpp does. Known ones that would change the answer
in a way not supported here are declared, and refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct

from trivet.server.dialects.anthropic.schemas import Conversation, MessageOptions
from trivet.server.dialects.llamacpp.limits import INT32_MAX, hard, soft
from trivet.server.fields import meaningless, refused

NO_GRAMMARS = "grammars and JSON schemas are not supported yet"
NO_SHIFT = "the context is never shifted: a generation ends where it is full"
NO_THOUGHTS = "thoughts are not told apart from content yet"
NO_TOOLS = "tools are not supported yet"
ONE_MODEL = "one model is served; answers carry its own name"
MAX_FLOAT = 3.4028234663852886e38
"""The greatest float32."""


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None


class GenerationBody(Struct, kw_only=True):
    """What all requests for tokens share."""

    model: Annotated[str | None, meaningless(ONE_MODEL)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_prompt: bool | None = None
    id_slot: int | None = None
    return_tokens: bool | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    response_fields: list[str] | None = None
    verbose: bool | None = None
    n_predict: Annotated[int | None, hard(-1, INT32_MAX)] = None
    max_completion_tokens: Annotated[int | None, hard(-1, INT32_MAX)] = None
    max_tokens: Annotated[int | None, hard(-1, INT32_MAX)] = None
    n_cmpl: int | None = None
    n: int | None = None
    n_indent: Annotated[int | None, hard(0, INT32_MAX)] = None
    t_max_predict_ms: Annotated[int | None, hard(-1, 2**63 - 1)] = None
    stop: str | list[str] | None = None

    temperature: Annotated[float | None, soft(0, MAX_FLOAT)] = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: Annotated[int | None, soft(0, INT32_MAX)] = None
    top_p: Annotated[float | None, soft(0, 1)] = None
    min_p: Annotated[float | None, soft(0, 1)] = None
    top_n_sigma: float | None = None
    xtc_probability: Annotated[float | None, soft(0, 1)] = None
    xtc_threshold: Annotated[float | None, soft(0, 1)] = None
    typical_p: float | None = None
    repeat_last_n: Annotated[int | None, hard(-1, INT32_MAX)] = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Annotated[int | None, hard(0, INT32_MAX)] = None
    dry_penalty_last_n: Annotated[int | None, hard(-1, INT32_MAX)] = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: Annotated[int | None, soft(0, 2)] = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    adaptive_target: Annotated[float | None, soft(-MAX_FLOAT, 1)] = None
    adaptive_decay: Annotated[float | None, hard(0, 0.99)] = None
    seed: int | None = None
    n_probs: int | None = None
    min_keep: Annotated[int | None, hard(0, INT32_MAX)] = None
    post_sampling_probs: bool | None = None
    samplers: str | list[str] | None = None
    logit_bias: Any = None
    ignore_eos: bool | None = None

    n_keep: Annotated[int | None, hard(-1, INT32_MAX), meaningless(NO_SHIFT)] = None
    n_discard: Annotated[int | None, hard(0, INT32_MAX), meaningless(NO_SHIFT)] = None
    n_cache_reuse: Annotated[
        int | None, hard(0, INT32_MAX), meaningless("only prefixes are reused, whole blocks of them")
    ] = None
    sse_ping_interval: Annotated[
        int | None, hard(-1, INT32_MAX), meaningless("silent streams get a comment every 15 seconds")
    ] = None
    backend_sampling: Annotated[bool | None, meaningless("sampling is native wherever the model runs")] = None
    preserved_tokens: Annotated[list[str] | None, meaningless("they matter to grammars only")] = None
    parse_tool_calls: Annotated[bool | None, meaningless(NO_TOOLS)] = None

    grammar: Annotated[str | None, refused("", why=NO_GRAMMARS)] = None
    json_schema: Annotated[Any, refused(why=NO_GRAMMARS)] = None
    grammar_lazy: Annotated[bool | None, refused(False, why=NO_GRAMMARS)] = None
    grammar_triggers: Annotated[list[Any] | None, refused([], why=NO_GRAMMARS)] = None
    lora: Annotated[list[Any] | None, refused([], why="LoRA adapters are not supported yet")] = None
    reasoning_format: Annotated[str | None, refused("none", "auto", why=NO_THOUGHTS)] = None
    reasoning_control: Annotated[bool | None, refused(False, why=NO_THOUGHTS)] = None
    reasoning_budget_tokens: Annotated[int | None, refused(-1, why=NO_THOUGHTS)] = None
    thinking_budget_tokens: Annotated[int | None, refused(-1, why=NO_THOUGHTS)] = None


class CompletionBody(GenerationBody, kw_only=True):
    prompt: Any = None
    logprobs: int | None = None


class TextBody(CompletionBody, kw_only=True):
    """POST /v1/completions."""

    echo: bool | None = None
    best_of: Annotated[int | None, refused(1, why="n says how many completions to make")] = None
    suffix: Annotated[str | None, refused("", why="/infill completes a text in its middle")] = None


class InfillBody(CompletionBody, kw_only=True):
    input_prefix: Any = None
    input_suffix: Any = None
    input_extra: Any = None


class ChatBody(GenerationBody, kw_only=True):
    messages: Any = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, hard(0, 20)] = None
    echo: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: Annotated[
        bool | Literal["content", "reasoning"] | None, refused(True, False, "content", why=NO_THOUGHTS)
    ] = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: Annotated[list[Any] | None, refused([], why=NO_TOOLS)] = None
    tool_choice: Annotated[Any, refused("none", "auto", why=NO_TOOLS)] = None
    parallel_tool_calls: Annotated[bool | None, meaningless(NO_TOOLS)] = None
    response_format: Annotated[Any, refused({"type": "text"}, why=NO_GRAMMARS)] = None


class TokenizeBody(Struct):
    content: Any
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Struct):
    tokens: list[int]


class ControlBody(Struct, kw_only=True):
    id: str | None = None
    action: str | None = None


class SlotBody(Struct, kw_only=True):
    filename: str | None = None


class CountTokensBody(Conversation, kw_only=True):
    model: Annotated[str | None, meaningless(ONE_MODEL)] = None


class MessagesBody(MessageOptions, kw_only=True):
    model: Annotated[str | None, meaningless(ONE_MODEL)] = None
    max_tokens: int | None = None
