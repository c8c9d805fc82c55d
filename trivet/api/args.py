"""How an engine is set up, in vLLM's words."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self, TypeVar, dataclass_transform

from trivet.api.cli_args import add_fields
from trivet.api.vllm_args import VllmArgs
from trivet.engine.config import EngineConfig, join_cache_dtype, split_cache_dtype
from trivet.errors import RequestError, unknown_keyword

T = TypeVar("T")
DEFAULT = EngineConfig(model="")
DTYPES = {
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
CACHE_DTYPES = {**DTYPES, "q8_0": "q8_0", **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e4m3fn"), "fp8")}
LEAST = {
    "max_num_seqs": 1,
    "max_num_queued_reqs": 0,
    "max_num_queued_tokens": 0,
    "num_gpu_blocks_override": 1,
    "gpu_layers": 0,
    "stream_interval": 1,
}
CHOICES: dict[str, Iterable[Any]] = {
    "dtype": DTYPES,
    "block_size": (16, 32, 64, 128),
    "logprobs_mode": ("raw_logprobs",),
    "performance_mode": ("balanced", "interactivity", "throughput"),
    "scheduling_policy": ("fcfs", "priority"),
    "device": ("auto", "cpu", "cuda"),
    "numerics": ("exact", "fast"),
}
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(value: int | str, name: str) -> int:
    """A count that may be written with a unit, vLLM's way: 16k = 16000, 16K = 16384, 1.5G = 1.5 * 2**30."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", value.strip()) if isinstance(value, str) else None
    if not match:
        raise RequestError(f"{name} must be a number like 4096, 16k (16000) or 16K (16384), got {value!r}", name)
    return int(float(match[1]) * UNITS.get(match[2], 1))


def parse_cache_dtype(value: str) -> str:
    """The engine's name of a type of the KV cache, or of two, given as KEYS/VALUES. Raises ValueError."""
    keys, values = map(CACHE_DTYPES.get, split_cache_dtype(str(value)))
    if keys is None or values is None:
        raise ValueError(f"must be one of {', '.join(CACHE_DTYPES)}, or two of them as KEYS/VALUES, got {value!r}")
    return join_cache_dtype(keys, values)


@dataclass_transform(field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """A dataclass that answers an unknown keyword with the nearest. Its methods are the same for any fields: to
    compile those that `dataclass` writes out for hundreds is a good part of a start.
    """
    made: Any = dataclass(init=False, repr=False, eq=False)(cls)
    known = {each.name: each for each in fields(made)}
    positional = [name for name, each in known.items() if not each.kw_only]

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(positional):
            raise TypeError(f"{cls.__name__} takes {len(positional)} positional arguments, got {len(args)}")
        for name in kwargs:
            if name not in known:
                raise unknown_keyword(cls.__name__, name, known)
            if name in positional[: len(args)]:
                raise TypeError(f"{cls.__name__} got two values for {name}")
        values = kwargs | dict(zip(positional, args, strict=False))
        for name, each in known.items():
            if name not in values:
                values[name] = each.default if each.default_factory is MISSING else each.default_factory()
            setattr(self, name, values[name])
        self.__post_init__()

    def text(self: Any) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in known)})"

    def equal(self: Any, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    made.__init__, made.__repr__, made.__eq__, made.__hash__ = init, text, equal, None
    return cls


@settings
class EngineArgs(VllmArgs):
    """vLLM's `EngineArgs`; the fields that mean something here. Raises RequestError for a bad value.

    model: a .gguf file, a Hugging Face folder or a hub id (`org/name`, `org/name:Q4_K_M`); None is the small
        one that comes with Trivet.
    tokenizer: where the tokenizer is, when not with the model.
    revision, download_dir, hf_token: of a hub id: branch, tag or commit; where to keep it; a token for private ones.
    served_model_name: the name or names the model goes by; the first is reported.
    chat_template: a Jinja template or a file that holds one, instead of the model's own.
    default_chat_template_kwargs: variables for it that a conversation does not give.
    dtype, kv_cache_dtype: the type of the KV cache is the second, or where that is "auto" the first: float32, float16,
        bfloat16 or the names that vLLM also has for them; for the cache alone on a CPU q8_0, about half as large as
        float16, or two types as KEYS/VALUES, or on a GPU fp8. "auto" for both is float32 for float32
        weights, on a CPU float16 for other weights that are floats, else bfloat16. Activations are float32 on the CPU,
        and on a GPU bfloat16 but for float32 models, whatever they say.
    block_size: tokens of a block of the cache: 16, 32, 64 or 128.
    max_model_len: tokens of prompt and output together; None is the model's own context.
    max_num_seqs, max_num_batched_tokens: most sequences, and most tokens, of one step; None is 128 and 2048.
    performance_mode: "throughput" doubles what the two are by default.
    scheduling_policy: "fcfs" serves who comes first, and refuses priorities; "priority" serves lower ones first.
    max_num_queued_reqs: more waiting requests than that are refused; None is 1024. `LLM` and `LLMEngine` have
        no such limit.
    max_num_queued_tokens: and so are those that come when prompts of so many tokens wait; None is no limit.
    gpu_memory_utilization: on a GPU, the share of its memory that may be in use, of which the cache takes what is
        left; on the CPU, the cache takes no more than this share of the free memory, if it is sized to need.
    kv_cache_memory_bytes, num_gpu_blocks_override: size of the cache, in bytes or in blocks of `block_size`
        tokens; left out, it is sized to need, on a GPU to what there is.
    device: "cpu", "cuda" (an NVIDIA GPU) or "auto", which takes a GPU where there is one.
    gpu_layers: compute so many of the last layers on the GPU, the others on the CPU; None is all.
    enforce_eager: on a GPU, do without CUDA graphs.
    numerics: "exact" gives a request the same tokens whatever is computed beside it; "fast" does not:
        on a GPU it takes PyTorch's matrix products; on a CPU, for more than a few tokens, those of int8 that AVX-512
        and AMX have for quantised weights, AMX's of bfloat16 for the others of these, and theirs of bfloat16 for
        attention. Elsewhere it is the same as "exact".
    enable_prefix_caching: reuse what is computed of prompts that begin alike; None is True.
    prefix_cache_dir: a folder that keeps what is computed of prompts for later engines with the same model; it holds
        prompts in all but plain text.
    prefix_cache_size: most bytes of that folder.
    generation_config: "auto" takes defaults of sampling from the model's generation_config.json, or from a GGUF's
        metadata, "vllm" from none, else from the file of another folder.
    override_generation_config: further defaults, by the keys of that file.
    max_logprobs: most that a request may ask for; -1 is no limit.
    logprobs_mode: "raw_logprobs" are those of the model's own distribution.
    stream_interval: streams report a sequence once in so many tokens after the first.
    mlock: keep weights and cache from being swapped out.
    seed: requests without a seed get theirs from this one; None makes every run different.
    threads: 0 is one for each usable core.
    step_timeout: seconds after which an engine in a process of its own that ends no step is started again.

    Sizes may be strings with a unit, see `parse_size`.
    """

    model: str | None = None
    tokenizer: str | None = None
    served_model_name: str | list[str] | None = None
    chat_template: str | None = None
    default_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    max_model_len: int | str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | str | None = None
    scheduling_policy: str = "fcfs"
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    block_size: int = 16
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | str | None = None
    num_gpu_blocks_override: int | None = None
    gpu_memory_utilization: float = 0.92
    device: str = "auto"
    gpu_layers: int | None = None
    enforce_eager: bool = False
    numerics: str = "exact"
    enable_prefix_caching: bool | None = None
    prefix_cache_dir: str | None = None
    prefix_cache_size: int | str = "8G"
    revision: str | None = None
    download_dir: str | None = None
    hf_token: bool | str | None = None
    generation_config: str = "auto"
    override_generation_config: dict[str, Any] = field(default_factory=dict)
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"
    performance_mode: str = "balanced"
    stream_interval: int = 1
    mlock: bool = False
    seed: int | None = 0
    threads: int = 0
    step_timeout: float = DEFAULT.step_timeout

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is None:
            self.block_size = DEFAULT.block_size
        if self.max_model_len in ("auto", -1):
            self.max_model_len = None
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise RequestError(f"{name} must be a whole number, at least {least}, got {value!r}", name)
        for name in ("max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes", "prefix_cache_size"):
            size = self._size(name)
            if size is not None and size < 1:
                raise RequestError(f"{name} must be at least 1, got {getattr(self, name)!r}", name)
        try:
            parse_cache_dtype(self.kv_cache_dtype)
        except ValueError as error:
            raise RequestError(f"kv_cache_dtype {error}", "kv_cache_dtype") from None
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise RequestError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}", name)
        share = self.gpu_memory_utilization
        if not isinstance(share, int | float) or not 0 < share <= 1:
            name = "gpu_memory_utilization"
            raise RequestError(f"{name} must be greater than 0 and at most 1, got {share!r}", name)
        if not isinstance(self.max_logprobs, int) or self.max_logprobs < -1:
            raise RequestError(f"max_logprobs must be -1 (no limit) or more, got {self.max_logprobs!r}", "max_logprobs")
        if not isinstance(self.threads, int) or self.threads < 0:
            raise RequestError(f"threads must be 0 (all cores) or more, got {self.threads!r}", "threads")

    @classmethod
    def add_cli_args(cls, parser: ArgumentParser) -> ArgumentParser:
        """Add an option for each field to a script's parser."""
        add_fields(parser, cls)
        return parser

    @classmethod
    def from_cli_args(cls, args: Namespace) -> Self:
        """The arguments among what such a parser found."""
        return cls(**{each.name: getattr(args, each.name) for each in fields(cls) if hasattr(args, each.name)})

    def engine_config(self) -> EngineConfig:
        """The same in the engine's words; resolves the model, which may download it. Raises ModelError."""
        from trivet.weights.hub import resolve

        keys, values = (self.dtype if part == "auto" else part for part in split_cache_dtype(self.kv_cache_dtype))
        factor = 2 if self.performance_mode == "throughput" else 1
        return EngineConfig(
            model=str(resolve(self.model, self.revision, self.download_dir, self.hf_token)),
            max_model_len=self._size("max_model_len"),
            max_num_seqs=self.max_num_seqs or DEFAULT.max_num_seqs * factor,
            max_num_batched_tokens=self._size("max_num_batched_tokens") or DEFAULT.max_num_batched_tokens * factor,
            block_size=self.block_size,
            num_blocks=self.num_gpu_blocks_override,
            kv_cache_memory=self._size("kv_cache_memory_bytes"),
            memory_share=min(self.gpu_memory_utilization, DEFAULT.memory_share),
            kv_cache_dtype=parse_cache_dtype(f"{keys}/{values}"),
            mlock=self.mlock,
            enable_prefix_caching=self.enable_prefix_caching is not False,
            prefix_cache_dir=self.prefix_cache_dir,
            prefix_cache_size=self._size("prefix_cache_size") or DEFAULT.prefix_cache_size,
            threads=self.threads,
            scheduling_policy=self.scheduling_policy,
            max_queued_tokens=self.max_num_queued_tokens,
            step_timeout=self.step_timeout,
            device=self.device,
            gpu_memory_utilization=self.gpu_memory_utilization,
            enforce_eager=bool(self.enforce_eager),
            gpu_layers=self.gpu_layers,
            numerics=self.numerics,
            max_queue=DEFAULT.max_queue if self.max_num_queued_reqs is None else self.max_num_queued_reqs,
        )

    def _size(self, name: str) -> int | None:
        value = getattr(self, name)
        return None if value is None else parse_size(value, name)


@settings
class AsyncEngineArgs(EngineArgs):
    """enable_log_requests: log a line for each request of `AsyncLLM.generate`; never its text."""

    enable_log_requests: bool = False
