"""Reading a Hugging Face folder: `config.json`, and weights in one safetensors file or in shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.mapped import MappedFile
from trivet.weights.tensor import Tensor, TensorInfo

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_FORMATS = {name: Format[name] for name in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")}
_ALIGNMENT = 8
"""What readers of the data may count on; the files promise nothing."""


class SafetensorsFolder:
    """The weights of a Hugging Face folder under their own names; tensors are views of the mapped files.

    config: `config.json`.
    tensors: those of all shards; where there is an index, the ones it names.

    Raises ModelError when a file is missing or damaged, or a tensor has a type that is not supported.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        folder = Path(path)
        self.config = read_json_object(folder / CONFIG)
        tensors: dict[str, TensorInfo] = {}
        self._data: dict[str, np.ndarray] = {}
        for shard, names in _shards(folder).items():
            infos = _read_shard(shard)
            for name in sorted(infos) if names is None else names:
                if name not in infos:
                    raise ModelError(f"{shard}: there is no tensor {name!r}, though {INDEX} says so")
                tensors[name], self._data[name] = infos[name]
        self.tensors: Mapping[str, TensorInfo] = tensors

    def load(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"{self.path}: there is no tensor {name!r} among the {len(self.tensors)} of this model")
        info, data = self.tensors[name], self._data[name]
        if data.ctypes.data % _ALIGNMENT:
            data = data.copy()
        return Tensor(info, data.reshape(*info.shape[:-1], info.format.row_bytes(info.shape[-1])))


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError when the file is missing or holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as e:
        raise ModelError(f"{path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path}: not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def _shards(folder: Path) -> dict[Path, list[str] | None]:
    """The weight files, each with the names of the tensors to take from it (None: all)."""
    if not (folder / INDEX).exists():
        if (folder / WEIGHTS).exists():
            return {folder / WEIGHTS: None}
        found = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pth", ".pt", ".gguf"))
        raise ModelError(
            f"{folder}: there is neither {WEIGHTS} nor {INDEX}; of weight files there is {', '.join(found) or 'none'}"
        )
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{folder / INDEX}: weight_map must be an object of tensor names and file names")
    shards: dict[Path, list[str] | None] = {}
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise ModelError(f"{folder / INDEX}: tensor {name!r} is in {file!r}, which is not a file of this folder")
        names = shards.setdefault(folder / file, [])
        assert names is not None
        names.append(name)
    return shards


def _read_shard(path: Path) -> dict[str, tuple[TensorInfo, np.ndarray]]:
    """Map one file. The safetensors library checks its header whole; its Python side does not tell the offsets,
    and its numpy side does not know bfloat16, so these are taken from the header it has checked.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        mapped = MappedFile(path)
    except (OSError, ValueError, SafetensorError) as e:
        raise ModelError(f"{path}: cannot be read as safetensors: {e}") from None
    base = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:base])
    header.pop("__metadata__", None)
    data = np.frombuffer(mapped, np.uint8)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _FORMATS:
            raise ModelError(
                f"{path}: tensor {name!r} is of type {entry['dtype']}; supported are {', '.join(_FORMATS)}"
            )
        start, end = entry["data_offsets"]
        info = TensorInfo(name, tuple(entry["shape"]) or (1,), _FORMATS[entry["dtype"]])
        if end - start != info.num_bytes:
            raise ModelError(
                f"{path}: tensor {name!r} has {end - start} bytes; its shape {list(info.shape)} needs {info.num_bytes}"
            )
        tensors[name] = info, data[base + start : base + end]
    return tensors
