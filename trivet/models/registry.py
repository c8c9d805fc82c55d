"""Architectures by name."""

from __future__ import annotations

from collections.abc import Callable

from trivet.errors import ModelError
from trivet.graph.builder import GraphBuilder
from trivet.graph.ops import Graph
from trivet.models.config import ModelConfig
from trivet.models.gemma2 import gemma2
from trivet.models.gemma3 import gemma3
from trivet.models.llama import llama
from trivet.models.mixtral import mixtral
from trivet.models.phi3 import phi3
from trivet.models.qwen2 import qwen2
from trivet.models.qwen3 import qwen3
from trivet.models.qwen3moe import qwen3moe
from trivet.weights.tensor import Checkpoint

ARCHITECTURES: dict[str, Callable[[GraphBuilder, ModelConfig], None]] = {
    "llama": llama,
    "mistral": llama,
    "mixtral": mixtral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3moe": qwen3moe,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi3": phi3,
}

ROPE_FACTORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
"""Read with the configuration, not by the graph."""


def build(config: ModelConfig, checkpoint: Checkpoint) -> Graph:
    """The graph of a model. Raises ModelError naming the tensors that are missing, misshapen or left over: a
    model with a tensor more than its architecture has would run, and be wrong.
    """
    builder = GraphBuilder(checkpoint.tensors)
    try:
        ARCHITECTURES[config.architecture](builder, config)
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from None
    unused = sorted(set(checkpoint.tensors) - builder.used - ROPE_FACTORS)
    if unused:
        shown = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        raise ModelError(f"{checkpoint.path}: architecture {config.architecture} has no place for the tensors {shown}")
    return builder.graph
