"""vLLM's name for an adapter. There is no LoRA yet: requests that name one are refused."""

from __future__ import annotations

import msgspec

from trivet.errors import RequestError
from trivet.sampling.vllm_params import StrictMeta


class LoRARequest(msgspec.Struct, metaclass=StrictMeta, frozen=True):
    """An adapter; lora_int_id is its number, from 1."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise RequestError(f"lora_int_id must be at least 1, got {self.lora_int_id}", "lora_int_id")
