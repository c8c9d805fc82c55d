"""Bodies of TGI's own API; field order is the order on the wire.

Unknown fields of a request are ignored, as TGI does. Null is accepted for every optional field.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trivet.server.fields import refused

Unsigned = Annotated[int, Meta(ge=0)]


class Parameters(Struct, kw_only=True):
    """TGI's `GenerateParameters`."""

    best_of: Unsigned | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: Unsigned | None = None
    return_full_text: bool | None = None
    stop: list[str] | None = None
    truncate: Unsigned | None = None
    watermark: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: Unsigned | None = None
    top_n_tokens: Unsigned | None = None
    grammar: Annotated[dict[str, Any] | None, refused(why="grammars are not supported yet")] = None
    adapter_id: Annotated[str | None, refused("", why="adapters are not supported yet")] = None


class GenerateBody(Struct, kw_only=True):
    inputs: str
    parameters: Parameters | None = None


class CompatBody(GenerateBody, kw_only=True):
    stream: bool | None = None


class VertexBody(Struct, kw_only=True):
    """Each instance is a `GenerateBody` or a chat's body."""

    instances: list[Raw]


class Predictions(Struct):
    predictions: list[str]


class PrefillToken(Struct):
    id: int
    text: str
    logprob: float | None


class Token(Struct):
    id: int
    text: str
    logprob: float
    special: bool


class BestOfSequence(Struct):
    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, kw_only=True):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Generated(Struct):
    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamEvent(Struct, kw_only=True):
    index: int
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET
    generated_text: str | None
    details: StreamDetails | None


class PromptToken(Struct):
    """A token of a text, and the bytes of it that it stands for: `text` is those from `start` to before `stop`."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokens(Struct):
    tokenize_response: list[PromptToken]
    templated_text: str


class Info(Struct, kw_only=True):
    """The fields of TGI 3, then those of older versions that tools still read."""

    model_id: str
    model_sha: str | None = None
    model_pipeline_tag: str | None = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int = 1
    max_client_batch_size: int
    router: str = "text-generation-router"
    version: str
    sha: str | None = None
    docker_label: str | None = None
    model_dtype: str
    model_device_type: str
    max_input_length: int
    waiting_served_ratio: float = 0.0
    max_batch_total_tokens: int
    max_waiting_tokens: int = 0
    max_batch_size: int


class Model(Struct, kw_only=True):
    id: str
    object: str = "model"
    created: int = 0
    owned_by: str


class Models(Struct, kw_only=True):
    object: str = "list"
    data: list[Model]
