"""What scripts ask an engine about its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet.engine.request import ModelInfo

if TYPE_CHECKING:
    from trivet.api.args import EngineArgs


@dataclass(frozen=True)
class ModelConfig:
    """The part of vLLM's `model_config` that means something here; `dtype` is the format of the weights."""

    model: str
    tokenizer: str
    served_model_name: str | list[str] | None
    dtype: str
    max_model_len: int
    max_logprobs: int
    seed: int | None
    vocab_size: int
    runner_type: str = "generate"

    @classmethod
    def of(cls, args: EngineArgs, info: ModelInfo) -> ModelConfig:
        model = args.model or info.name
        return cls(
            model=model,
            tokenizer=args.tokenizer or model,
            served_model_name=args.served_model_name,
            dtype=info.dtype,
            max_model_len=info.max_model_len,
            max_logprobs=args.max_logprobs,
            seed=args.seed,
            vocab_size=info.vocab_size,
        )

    def get_vocab_size(self) -> int:
        return self.vocab_size
