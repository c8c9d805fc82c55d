"""How much cache an engine takes."""

from __future__ import annotations

import logging

from trivet.engine.config import EngineConfig
from trivet.errors import EngineError
from trivet.runtime.base import Runtime
from trivet.units import amount

logger = logging.getLogger(__name__)

LONG_SEQUENCES = 4
SHORT_SEQUENCE = 256
"""The cache taken by default: so many sequences of max_model_len (or max_num_seqs, if fewer), and max_num_seqs of so
many tokens."""

MOST_BLOCKS = 1 << 20
"""What a cache that takes all of a device's memory has at most: a small model's blocks are small."""


def check_sizes(config: EngineConfig) -> None:
    """Raises EngineError for one that no model can have."""
    for name in ("block_size", "max_num_seqs", "max_num_batched_tokens"):
        if getattr(config, name) < 1:
            raise EngineError(f"{name} must be at least 1, got {getattr(config, name)}")


def size_cache(config: EngineConfig, runtime: Runtime) -> tuple[int, int]:
    """Returns max_model_len and the number of blocks, which hold at least one sequence of that length.

    Raises EngineError, with the numbers and the setting to change, when what the configuration asks does not
    fit. A max_model_len that was not asked for is the model's own, or less where memory is short.
    """
    size = config.block_size
    trained = runtime.info.context_length
    max_len = trained if config.max_model_len is None else config.max_model_len
    if not 2 <= max_len <= trained:
        raise EngineError(f"max_model_len must be between 2 and the model's context length {trained}, got {max_len}")
    block_bytes = runtime.block_bytes(size)
    available = runtime.available_bytes()
    fitting = available // block_bytes
    if config.num_blocks is not None:
        blocks, setting = config.num_blocks, f"num_blocks {config.num_blocks}"
    elif config.kv_cache_memory is not None:
        blocks, setting = config.kv_cache_memory // block_bytes, f"kv_cache_memory {config.kv_cache_memory}"
    elif runtime.info.dedicated_memory:
        blocks, setting = min(fitting, MOST_BLOCKS), f"gpu_memory_utilization {config.gpu_memory_utilization:g}"
    else:
        short = min(SHORT_SEQUENCE, max_len)
        need = min(LONG_SEQUENCES, config.max_num_seqs) * -(-max_len // size) + config.max_num_seqs * -(-short // size)
        blocks, setting = min(need, int(config.memory_share * fitting)), f"{config.memory_share:.0%} of the free memory"
        if runtime.info.partly_dedicated_memory:
            setting += f", on the GPU of what gpu_memory_utilization {config.gpu_memory_utilization:g} leaves,"
    if blocks > fitting:
        raise EngineError(
            f"{setting} asks for {amount(blocks * block_bytes)} of KV cache, but {amount(available)} are free:"
            f" that is {fitting} blocks of {size} tokens"
        )
    if blocks * size < max_len:
        if config.max_model_len is not None or blocks * size < 2:
            raise EngineError(
                f"max_model_len {max_len} needs {amount(-(-max_len // size) * block_bytes)} of KV cache;"
                f" {setting} allows {amount(blocks * block_bytes)}, which is max_model_len {blocks * size}"
            )
        logger.warning("%s limits max_model_len to %d of the model's %d", setting, blocks * size, trained)
        max_len = blocks * size
    return max_len, blocks
