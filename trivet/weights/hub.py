"""From what a user calls a model to a path: the built-in model, a path, or a download from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trivet.errors import ModelError
from trivet.weights.gguf import split_of
from trivet.weights.safetensors import CONFIG, INDEX, WEIGHTS

BUILT_IN = Path(__file__).parents[1] / "assets" / "shakespeare.gguf"
DEFAULT_QUANT = "Q4_K_M"

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<quant>\w[\w.-]*))?")
_FOLDER_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model")
_NOT_MODELS = ("mmproj", "imatrix")


def resolve(
    model: str | None, revision: str | None = None, folder: str | None = None, token: bool | str | None = None
) -> Path:
    """The file or folder of a model; downloads it if it is a hub id that is not in the cache.

    model: None for the built-in model, a path, `org/name`, or `org/name:Q4_K_M` for a GGUF file of that quantisation.
        Without one, a repository's safetensors are taken, else its Q4_K_M file, else its first GGUF.
    revision, folder, token: a branch, tag or commit of the repository; where downloads are kept; for private ones.

    Raises ModelError when there is no such model or it cannot be fetched.
    """
    if model is None:
        return BUILT_IN
    try:
        if model and Path(model).exists():
            return Path(model)
    except OSError as e:
        raise ModelError(f"{model}: {e.strerror}") from None
    match = _HUB_ID.fullmatch(model)
    if match is None or model.endswith(".gguf"):
        raise ModelError(f"{model}: no such file or folder, nor a hub id of the form org/name or org/name:QUANT")
    access = {"revision": revision, "cache_dir": folder, "token": token}
    return _fetch(match["repo"], match["quant"], {name: value for name, value in access.items() if value is not None})


def _fetch(repo: str, quant: str | None, access: dict[str, Any]) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        try:
            info = HfApi().model_info(repo, **{name: value for name, value in access.items() if name != "cache_dir"})
            files = [file.rfilename for file in info.siblings or []]
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except Exception as e:  # Offline; which class that is depends on the HTTP library of huggingface_hub's version.
            folder = _cached_folder(repo, access, e)
            chosen = _choose(repo, [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()], quant)
        else:
            chosen = _choose(repo, files, quant)
            folder = Path(snapshot_download(repo, allow_patterns=chosen, **access))
    except ModelError:
        raise
    except GatedRepoError:
        raise ModelError(f"{repo}: access is restricted; accept its terms on huggingface.co and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ModelError(f"{repo}: has no revision {access['revision']}") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{repo}: no such path, and no such repository on the hub (if it is private, set HF_TOKEN)"
        ) from None
    except Exception as e:
        raise ModelError(f"{repo}: the download failed: {e}") from e
    return folder / chosen[0] if chosen[0].endswith(".gguf") else folder


def _cached_folder(repo: str, access: dict[str, Any], error: Exception) -> Path:
    """What an earlier download left of a repository, when `error` keeps us from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # No pattern matches, so that no file counts as missing from the snapshot.
        return Path(snapshot_download(repo, local_files_only=True, allow_patterns=[], **access))
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{repo}: no such path; the hub cannot be reached ({error}) and the model is not in its local cache"
        ) from None


def _choose(repo: str, files: list[str], quant: str | None) -> list[str]:
    """The files to fetch: a GGUF model, its first split first, or those of a Hugging Face folder."""
    ggufs = sorted(f for f in files if f.endswith(".gguf") and not any(word in f.lower() for word in _NOT_MODELS))
    if quant is None:
        top = [f for f in files if "/" not in f and f.endswith(_FOLDER_SUFFIXES)]
        if CONFIG in top and (WEIGHTS in top or INDEX in top):
            return sorted(f for f in top if not f.endswith(".safetensors") or f.startswith("model"))
    if not ggufs:
        kind = "GGUF file" if quant else "safetensors or GGUF model"
        raise ModelError(f"{repo}: has no {kind}; it holds {_some(sorted(files))}")
    matching = [f for f in ggufs if _has_tag(f, quant or DEFAULT_QUANT)]
    if quant and not matching:
        raise ModelError(f"{repo}: has no GGUF file for {quant}; it holds {_some(ggufs)}")
    first = (matching or ggufs)[0]
    split = split_of(first)
    return [f for f in ggufs if f == first or (split and (other := split_of(f)) and other[0] == split[0])]


def _has_tag(file: str, quant: str) -> bool:
    """Whether the name has the quantisation as a part of its own: `Q4_K` is not in `model-Q4_K_M.gguf`."""
    return re.search(rf"(?<![a-z0-9]){re.escape(quant.lower())}(?![a-z0-9_])", file.lower()) is not None


def _some(files: list[str]) -> str:
    return ", ".join(files[:12]) + (f" and {len(files) - 12} more" if len(files) > 12 else "") or "nothing"
