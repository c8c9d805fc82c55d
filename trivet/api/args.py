"""How an engine is set up, in vLLM's words."""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from trivet.engine.config import EngineConfig
from trivet.errors import RequestError

T = TypeVar("T")
ANY = object()

UNUSED: dict[str, Any] = {
    "allowed_local_media_path": "",
    "async_scheduling": ANY,
    "config_format": "auto",
    "convert": "auto",
    "cpu_offload_gb": 0,
    "data_parallel_size": 1,
    "disable_custom_all_reduce": False,
    "disable_log_stats": ANY,
    "disable_sliding_window": False,
    "distributed_executor_backend": None,
    "download_dir": None,
    "enable_chunked_prefill": True,
    "enable_expert_parallel": False,
    "enable_log_requests": ANY,
    "enable_lora": False,
    "enable_prompt_embeds": False,
    "enable_sleep_mode": False,
    "enforce_eager": ANY,
    "generation_config": "auto",
    "gpu_memory_utilization": 0.92,
    "hf_overrides": None,
    "hf_token": None,
    "limit_mm_per_prompt": None,
    "load_format": "auto",
    "logits_processors": None,
    "logprobs_mode": "raw_logprobs",
    "max_num_scheduled_tokens": None,
    "model_impl": "auto",
    "num_speculative_tokens": None,
    "override_generation_config": None,
    "pipeline_parallel_size": 1,
    "quantization": None,
    "reasoning_parser": "",
    "revision": None,
    "runner": "auto",
    "scheduling_policy": "fcfs",
    "skip_tokenizer_init": False,
    "speculative_config": None,
    "stream_interval": 1,
    "structured_outputs_config": None,
    "tensor_parallel_size": 1,
    "tokenizer_mode": "auto",
    "tokenizer_revision": None,
    "trust_remote_code": ANY,
}
"""Arguments of vLLM's that change nothing here, with the only value they may have (ANY: nothing to miss)."""

CACHE_DTYPES = {
    "auto": "auto",
    "float32": "f32",
    "float": "f32",
    "f32": "f32",
    "float16": "f16",
    "half": "f16",
    "f16": "f16",
    "bfloat16": "bf16",
    "bf16": "bf16",
}
BLOCK_SIZES = (16, 32, 64, 128)
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(value: int | str, name: str) -> int:
    """A count that may be written with a unit, vLLM's way: 16k = 16000, 16K = 16384, 1.5G = 1.5 * 2**30."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", value.strip()) if isinstance(value, str) else None
    if not match:
        raise RequestError(f"{name} must be a number like 4096, 16k (16000) or 16K (16384), got {value!r}", name)
    return int(float(match[1]) * UNITS.get(match[2], 1))


def strict(cls: type[T]) -> type[T]:
    """Make a dataclass answer an unknown keyword with the nearest, and drop UNUSED ones asking nothing."""
    generated = cls.__init__
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(generated)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in [name for name in kwargs if name not in names]:
            value = kwargs.pop(name)
            if name not in UNUSED:
                near = difflib.get_close_matches(name, [*names, *UNUSED], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{cls.__name__} has no argument {name!r}{hint}")
            if UNUSED[name] is not ANY and value not in (UNUSED[name], None):
                raise RequestError(f"{name}={value!r} is not supported, only {UNUSED[name]!r}", name)
        generated(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


@strict
@dataclass
class EngineArgs:
    """What vLLM's `EngineArgs` says, as far as it means something here. Raises RequestError for a bad value.

    model: a .gguf file, a Hugging Face folder or a hub id (`org/name`, `org/name:Q4_K_M`); None is the small
        one that comes with Trivet.
    tokenizer: where the tokenizer is, when not with the model.
    served_model_name: the name or names the model goes by; the first is reported.
    chat_template: a Jinja template or a file that holds one, instead of the model's own.
    dtype: type of the KV cache where `kv_cache_dtype` is "auto" (activations are float32 whatever it says).
    max_model_len: tokens of prompt and output together; None is the model's own context.
    max_num_seqs, max_num_batched_tokens: most sequences, and most tokens, of one step.
    max_num_queued_reqs: more waiting requests than that are refused.
    kv_cache_memory_bytes, num_gpu_blocks_override: size of the cache, in bytes or in blocks of `block_size`
        tokens; left out, it is sized to need.
    seed: requests without a seed get theirs from this one; None makes every run different.
    threads: 0 is one for each usable core.

    Sizes may be strings with a unit, see `parse_size`.
    """

    model: str | None = None
    tokenizer: str | None = None
    served_model_name: str | list[str] | None = None
    chat_template: str | None = None
    dtype: str = "auto"
    max_model_len: int | str | None = None
    max_num_seqs: int = 128
    max_num_batched_tokens: int | str = 2048
    max_num_queued_reqs: int = 1024
    block_size: int = 16
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | str | None = None
    num_gpu_blocks_override: int | None = None
    enable_prefix_caching: bool | None = True
    seed: int | None = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.max_model_len in ("auto", -1):
            self.max_model_len = None
        for name in ("max_num_seqs", "max_num_queued_reqs", "num_gpu_blocks_override"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise RequestError(f"{name} must be a whole number, at least 1, got {value!r}", name)
        for name in ("max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes"):
            size = self._size(name)
            if size is not None and size < 1:
                raise RequestError(f"{name} must be at least 1, got {getattr(self, name)!r}", name)
        for name in ("dtype", "kv_cache_dtype"):
            if (value := getattr(self, name)) not in CACHE_DTYPES:
                raise RequestError(f"{name} must be one of {', '.join(CACHE_DTYPES)}, got {value!r}", name)
        if self.block_size not in BLOCK_SIZES:
            raise RequestError(f"block_size must be one of {BLOCK_SIZES}, got {self.block_size!r}", "block_size")
        if not isinstance(self.threads, int) or self.threads < 0:
            raise RequestError(f"threads must be 0 (all cores) or more, got {self.threads!r}", "threads")

    def engine_config(self) -> EngineConfig:
        """The same in the engine's words; resolves the model, which may download it. Raises ModelError."""
        from trivet.weights.hub import resolve

        cache_dtype = self.kv_cache_dtype if self.kv_cache_dtype != "auto" else self.dtype
        return EngineConfig(
            model=str(resolve(self.model)),
            max_model_len=self._size("max_model_len"),
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=parse_size(self.max_num_batched_tokens, "max_num_batched_tokens"),
            block_size=self.block_size,
            num_blocks=self.num_gpu_blocks_override,
            kv_cache_memory=self._size("kv_cache_memory_bytes"),
            kv_cache_dtype=CACHE_DTYPES[cache_dtype],
            enable_prefix_caching=self.enable_prefix_caching is not False,
            threads=self.threads,
            max_queue=self.max_num_queued_reqs,
        )

    def _size(self, name: str) -> int | None:
        value = getattr(self, name)
        return None if value is None else parse_size(value, name)
