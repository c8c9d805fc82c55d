"""A Hugging Face folder with GGUF's metadata in place of its own files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trivet.convert.hyperparameters import hyperparameters
from trivet.convert.vocabulary import vocabulary
from trivet.errors import ModelError
from trivet.models.config import ModelConfig
from trivet.sampling.defaults import gguf_defaults
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint, Tensor, TensorInfo


def as_gguf(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with GGUF's metadata; a GGUF file is returned as it is.

    What this says is read back and compared with the folder. Raises ModelError when GGUF has no way to say something.
    """
    if "general.architecture" in checkpoint.metadata:
        return checkpoint
    config = ModelConfig.from_checkpoint(checkpoint)
    metadata, vectors = hyperparameters(checkpoint, config)
    metadata |= {"general.type": "model", "general.name": _name(Path(checkpoint.path))}
    metadata |= gguf_defaults(Path(checkpoint.path))
    metadata |= vocabulary(Path(checkpoint.path), config.vocab_size)
    converted = ConvertedFolder(checkpoint, metadata, vectors)
    for context in (1, config.context_length):  # Some rotary embeddings depend on it.
        _compare(
            ModelConfig.from_checkpoint(checkpoint, context),
            ModelConfig.from_checkpoint(converted, context),
            checkpoint.path,
        )
    return converted


def _name(folder: Path) -> str:
    """The folder's name, or in the hub's cache (`models--org--name/snapshots/<commit>`) the repository's."""
    folder = folder.resolve()
    return folder.parents[1].name.split("--")[-1] if folder.parent.name == "snapshots" else folder.name


def _compare(folder: ModelConfig, file: ModelConfig, path: str) -> None:
    """Raise ModelError where a configuration reads differently in GGUF."""
    for field in fields(ModelConfig):
        ours, theirs = getattr(folder, field.name), getattr(file, field.name)
        if field.name != "architecture" and not _alike(ours, theirs):
            raise ModelError(f"{path}: GGUF cannot say that {field.name} is {ours}; it would read as {theirs}")


def _alike(a: Any, b: Any) -> bool:
    """Equal, but for the rounding of numbers to float32."""
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    if is_dataclass(a):
        return all(_alike(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


class ConvertedFolder:
    """A Checkpoint: the folder's tensors, and the vectors that GGUF has for what the folder says in `config.json`."""

    def __init__(self, folder: Checkpoint, metadata: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> None:
        self.path = folder.path
        self.metadata = metadata
        self._folder = folder
        self._vectors = vectors
        added = {name: TensorInfo(name, vector.shape, Format.F32) for name, vector in vectors.items()}
        self.tensors: Mapping[str, TensorInfo] = {**added, **folder.tensors}

    def load(self, name: str) -> Tensor:
        if name in self._vectors:
            return Tensor(self.tensors[name], self._vectors[name].view(np.uint8))
        return self._folder.load(name)
