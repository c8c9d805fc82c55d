"""Model files: GGUF and Hugging Face folders behind one Checkpoint, hub downloads, quantising."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from trivet.errors import ModelError
from trivet.weights.tensor import Checkpoint

if TYPE_CHECKING:
    from trivet.weights.gguf import GGUFFile

_opening = threading.Lock()
_opened: WeakValueDictionary[tuple[str | int, ...], GGUFFile] = WeakValueDictionary()
"""By path, and by what tells that the file is still the same: engine and tokenizer share one, whose half a million
strings take a while to read.
"""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.gguf` file (of a model in splits, the first), a folder that holds one, or a Hugging Face folder.

    Raises ModelError when it is none of these or damaged.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ModelError(f"{path}: weights alone are not a model; name the folder that holds them and config.json")
    if not path.is_dir():
        return _open_gguf(path)
    models = gguf_models(path)
    if (path / "config.json").is_file() and (any(path.glob("*.safetensors*")) or not models):
        from trivet.weights.names import HuggingFaceCheckpoint
        from trivet.weights.safetensors import SafetensorsFolder

        return HuggingFaceCheckpoint(SafetensorsFolder(path))
    if len(models) == 1:
        return _open_gguf(models[0])
    if models:
        raise ModelError(f"{path}: holds {len(models)} GGUF models, name one: {', '.join(p.name for p in models)}")
    raise ModelError(f"{path}: neither a Hugging Face folder (no config.json) nor one that holds a .gguf file")


def _open_gguf(path: Path) -> GGUFFile:
    from trivet.weights.gguf import GGUFFile

    if not path.is_file():
        return GGUFFile(path)  # which says what is wrong
    found = path.stat()
    key = (str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    with _opening:
        file = _opened.get(key)
        if file is None:
            file = _opened[key] = GGUFFile(path)
    return file


def gguf_models(folder: Path) -> list[Path]:
    """The GGUF files of a folder, sorted; of a model in splits, only the first."""
    from trivet.weights.gguf import split_of

    return sorted(p for p in folder.glob("*.gguf") if (split_of(p) or ("", 1, 1))[1] == 1)
