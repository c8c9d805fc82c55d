"""What every runtime says of its model."""

from __future__ import annotations

import math
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from trivet.graph.ops import Graph
from trivet.models.config import ModelConfig
from trivet.runtime.base import RuntimeInfo
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint


def describe(
    checkpoint: Checkpoint, config: ModelConfig, device: str, weight_bytes: int, dedicated_memory: bool = False
) -> RuntimeInfo:
    return RuntimeInfo(
        name=str(checkpoint.metadata.get("general.name") or Path(checkpoint.path).stem),
        architecture=config.architecture,
        dtype=main_format(checkpoint).name.lower(),
        context_length=config.context_length,
        device=device,
        weight_bytes=weight_bytes,
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        dedicated_memory=dedicated_memory,
    )


SAMPLE = 4096
"""Bytes."""


def sampled_digest(checkpoint: Checkpoint) -> str:
    """Tells models apart by their tensors' names, shapes, formats, and the bytes that each begins and ends with."""
    digest = blake2b(digest_size=16)
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.load(name)
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        rows = max(1, SAMPLE // max(1, data.shape[1]))
        digest.update(f"{name} {tensor.info.shape} {tensor.info.format.name}\n".encode())
        digest.update(data[:rows, :SAMPLE].tobytes())
        digest.update(data[-rows:, -SAMPLE:].tobytes())
    return digest.hexdigest()


def graph_digest(graph: Graph) -> str:
    """Tells models apart by what they compute with their tensors: rotary embeddings, scales, windows, epsilons."""
    return blake2b(repr(graph).encode(), digest_size=16).hexdigest()


OWN_TYPES = {Format.F32: "f32", Format.F16: "f16", Format.BF16: "f16"}


def own_type(checkpoint: Checkpoint) -> str:
    """The type that a model's keys and values have where nobody says otherwise: bfloat16, whose rounding is lost in
    that of quantised weights' activations; for weights that are floats it would be the largest error of all.
    """
    return OWN_TYPES.get(main_format(checkpoint), "bf16")


def main_format(checkpoint: Checkpoint) -> Format:
    """The format that most of a model's bytes are in."""
    counts: Counter[Format] = Counter()
    for info in checkpoint.tensors.values():
        counts[info.format] += info.num_bytes
    return counts.most_common(1)[0][0] if counts else Format.F32
