"""vLLM's parameters and outputs of models that embed, classify or score. No such model is supported: what takes or
gives these says so; they exist for the programs that name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from trivet.sampling.vllm_params import RequestOutputKind, StrictMeta

Output = TypeVar("Output")


class PoolingParams(msgspec.Struct, metaclass=StrictMeta, omit_defaults=True):
    """dimensions: of the embeddings. task: "embed", "classify", "token_embed", "token_classify" or "plugin"."""

    use_activation: bool | None = None
    dimensions: int | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    task: str | None = None
    requires_token_ids: bool = False
    skip_reading_prefix_cache: bool | None = None
    late_interaction_params: Any = None
    extra_kwargs: dict[str, Any] | None = None
    output_kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY


@dataclass
class PoolingOutput:
    data: Any


@dataclass
class EmbeddingOutput:
    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass
class ClassificationOutput:
    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass
class ScoringOutput:
    score: float


@dataclass
class PoolingRequestOutput(Generic[Output]):
    request_id: str
    outputs: Output
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool
    error: Any = None


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]): ...


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]): ...


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]): ...
