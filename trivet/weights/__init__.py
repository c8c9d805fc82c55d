"""Model files: GGUF and Hugging Face folders behind one Checkpoint, hub downloads, quantising."""

from __future__ import annotations

from pathlib import Path

from trivet.errors import ModelError
from trivet.weights.tensor import Checkpoint


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.gguf` file (of a model in splits, the first), a folder that holds one, or a Hugging Face folder.

    Raises ModelError when it is none of these or damaged.
    """
    from trivet.weights.gguf import GGUFFile

    path = Path(path)
    if path.suffix == ".safetensors":
        raise ModelError(f"{path}: weights alone are not a model; name the folder that holds them and config.json")
    if not path.is_dir():
        return GGUFFile(path)
    models = gguf_models(path)
    if (path / "config.json").is_file() and (any(path.glob("*.safetensors*")) or not models):
        from trivet.weights.names import HuggingFaceCheckpoint
        from trivet.weights.safetensors import SafetensorsFolder

        return HuggingFaceCheckpoint(SafetensorsFolder(path))
    if len(models) == 1:
        return GGUFFile(models[0])
    if models:
        raise ModelError(f"{path}: holds {len(models)} GGUF models, name one: {', '.join(p.name for p in models)}")
    raise ModelError(f"{path}: neither a Hugging Face folder (no config.json) nor one that holds a .gguf file")


def gguf_models(folder: Path) -> list[Path]:
    """The GGUF files of a folder, sorted; of a model in splits, only the first."""
    from trivet.weights.gguf import split_of

    return sorted(p for p in folder.glob("*.gguf") if (split_of(p) or ("", 1, 1))[1] == 1)
