"""Writing a checkpoint as one GGUF file in the formats of a quantisation mix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from trivet.errors import ModelError
from trivet.weights.fields import Fields
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.mixes import MIXES, choose_formats
from trivet.weights.quantize import quantize
from trivet.weights.tensor import Checkpoint, Tensor, TensorInfo, to_float32

QUANTIZATION_VERSION = 2
_CHUNK = 1 << 18
"""Values that one thread quantises at a time; a chunk and its intermediates stay in a core's cache."""


def export(
    source: Checkpoint, path: str | Path, mix: str, progress: Callable[[TensorInfo], None] = lambda info: None
) -> dict[str, TensorInfo]:
    """Write `source`, whose metadata is GGUF's, as the file `path`. A tensor at a time is in memory; `progress` is
    called after each. Returns the tensors of the new file.

    Raises ModelError when a tensor is neither F32, F16, BF16 nor in the format wanted, when it holds values that are
    not finite or too large for the format, or when the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; name the file to write")
    if path.exists() and path.samefile(source.path):
        raise ModelError(f"{path}: would overwrite the model that is read")
    architecture = source.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(f"{source.path}: general.architecture is {architecture!r}; it must name one")
    fields = Fields(source.path, source.metadata, f"{architecture}.")
    layers, experts = fields.integer("block_count"), fields.integer("expert_count", 0, low=0)
    formats = choose_formats(source.tensors, mix, layers, experts, _heads_per_kv(fields))
    infos = {name: replace(info, format=formats[name]) for name, info in source.tensors.items()}
    for name, info in source.tensors.items():
        if info.format not in (formats[name], Format.F32, Format.F16, Format.BF16):
            raise ModelError(
                f"{source.path}: tensor {name!r} is {info.format.name} already; quantise from an F32, F16 or BF16 model"
            )
    general = {"general.file_type": MIXES[mix][1], "general.quantization_version": QUANTIZATION_VERSION}
    types = source.types if isinstance(source, GGUFFile) else {}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with (
        ThreadPoolExecutor(workers) as pool,
        GGUFWriter(path, {**source.metadata, **general}, infos.values(), types) as writer,
    ):
        for name, info in infos.items():
            for data in _convert(source.load(name), info.format, pool, workers):
                writer.write(name, data)
            progress(info)
    return infos


def _heads_per_kv(fields: Fields) -> int:
    """Query heads that share a key and value head; in the first layer, where layers differ."""

    def first(key: str, default: int) -> int:
        value = fields.values.get(fields.prefix + key, default)
        return Fields(fields.path, {key: next(iter(value), None) if np.ndim(value) else value}).integer(key)

    heads = first("attention.head_count", 1)
    return heads // first("attention.head_count_kv", heads)


def _convert(tensor: Tensor, fmt: Format, pool: ThreadPoolExecutor, workers: int) -> Iterator[np.ndarray]:
    """The tensor's rows in another format, in pieces."""
    if tensor.info.format is fmt:
        yield tensor.data
        return
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, _CHUNK // tensor.info.shape[-1])
    chunks = [Tensor(tensor.info, rows[i : i + step]) for i in range(0, len(rows), step)]
    for i in range(0, len(chunks), 4 * workers):
        yield from pool.map(lambda chunk: _quantize(chunk, fmt), chunks[i : i + 4 * workers])


def _quantize(tensor: Tensor, fmt: Format) -> np.ndarray:
    values = to_float32(tensor)
    try:
        return quantize(values, fmt)
    except ValueError as e:
        raise ModelError(f"tensor {tensor.info.name!r} cannot become {fmt.name}: {e}") from None
