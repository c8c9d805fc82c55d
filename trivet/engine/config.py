"""How an engine is set up, as a value that crosses the process border."""

from __future__ import annotations

import msgspec


class EngineConfig(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`model` is a resolved path (a .gguf file or a Hugging Face folder).

    num_blocks, else kv_cache_memory (bytes), else need (a few sequences of max_model_len, capped by
    memory_share of the free memory, as steps and others need some too) size the cache. mlock keeps the process's
    memory from being swapped out. threads 0 = one per usable core. kv_cache_dtype: "auto" (f32 for a float32
    model, on a CPU f16 for a float16 or bfloat16 one, else bf16), "f32", "f16", "bf16", "q8_0" (on a CPU) or "fp8" (on
    a GPU), or on a CPU one for keys and one for values: "q8_0/f16". prefix_cache_dir: a folder that keeps cached blocks
    for later engines, prefix_cache_size bytes of them at most. scheduling_policy: "fcfs" (who comes first is served
    first) or "priority" (of lower number first). max_queue bounds the requests waiting beside the max_num_seqs that
    run; past it, submissions are refused, and so they are past max_queued_tokens tokens of prompts that wait (one
    prompt may always wait). A child engine that has requests and ends no step in step_timeout seconds is taken for hung
    and started again.

    device: "cpu", "cuda" (an NVIDIA GPU), or "auto": a GPU where there is one. On a GPU, gpu_memory_utilization is the
    share of its memory that may be in use, of which the cache takes what is left; enforce_eager runs without CUDA
    graphs; gpu_layers computes so many of the last layers there, the others on the CPU (None: all).

    numerics: "exact" gives a row the same bits whatever is computed beside it; "fast" takes products which do not: on a
    GPU the vendor's; on a CPU, for more than a few rows, those of int8 that AVX-512 and AMX have for quantised weights,
    AMX's of bfloat16 for the others of these, and theirs of bfloat16 for attention.
    """

    model: str
    max_model_len: int | None = None
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    num_blocks: int | None = None
    kv_cache_memory: int | None = None
    memory_share: float = 0.8
    kv_cache_dtype: str = "auto"
    mlock: bool = False
    enable_prefix_caching: bool = True
    prefix_cache_dir: str | None = None
    prefix_cache_size: int = 8 << 30
    threads: int = 0
    scheduling_policy: str = "fcfs"
    max_queue: int = 1024
    max_queued_tokens: int | None = None
    step_timeout: float = 600.0
    device: str = "auto"
    gpu_memory_utilization: float = 0.92
    enforce_eager: bool = False
    gpu_layers: int | None = None
    numerics: str = "exact"


def split_cache_dtype(kv_cache_dtype: str) -> tuple[str, str]:
    """Of keys and of values, where a `kv_cache_dtype` is one for both or KEYS/VALUES."""
    keys, slash, values = kv_cache_dtype.partition("/")
    return keys, values if slash else keys


def join_cache_dtype(keys: str, values: str) -> str:
    """The one name of two types."""
    return keys if keys == values else f"{keys}/{values}"
