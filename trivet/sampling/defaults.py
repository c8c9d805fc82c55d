"""What a model's makers recommend for sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivet.errors import ModelError, RequestError
from trivet.sampling.llamacpp_samplers import samplers, stages
from trivet.sampling.params import SamplingParams
from trivet.weights import gguf_models, open_checkpoint
from trivet.weights.safetensors import read_json_object

CONFIG = "generation_config.json"
NAMES = {
    "repetition_penalty": "repetition_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "max_new_tokens": "max_tokens",
}
"""generation_config.json -> SamplingParams."""
GGUF_NAMES = {
    "general.sampling.sequence": "stages",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.xtc_probability": "xtc_probability",
    "general.sampling.xtc_threshold": "xtc_threshold",
    "general.sampling.temp": "temperature",
    "general.sampling.penalty_last_n": "penalty_last_n",
    "general.sampling.penalty_repeat": "repetition_penalty",
    "general.sampling.mirostat": "mirostat",
    "general.sampling.mirostat_tau": "mirostat_tau",
    "general.sampling.mirostat_eta": "mirostat_eta",
}
"""GGUF's metadata -> SamplingParams."""


def recommended(model: str, source: str = "auto", override: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sampling parameters from a folder's `generation_config.json`, or from a GGUF's metadata; empty without either.

    source: "auto" is the model's own, "vllm" none, else another folder, which must have the file.
    override: further ones by the file's names, or those of SamplingParams; they win.

    Raises ModelError for a file that is not a JSON object and for values that are none of sampling, RequestError for a
    name that means nothing.
    """
    found: dict[str, Any] = {}
    path = Path(model if source == "auto" else source) / CONFIG
    if source not in ("auto", "vllm") and not path.is_file():
        raise ModelError(f"generation_config: {source} is not 'auto', 'vllm' or a folder with {CONFIG}")
    if source != "vllm":
        found = _of_folder(path) if path.is_file() else _of_gguf(Path(model))
    for name, value in (override or {}).items():
        ours = NAMES.get(name, name)
        if ours not in SamplingParams.__struct_fields__:
            raise RequestError(f"override_generation_config: {name} is no parameter of sampling", name)
        found[ours] = value
    return found


def gguf_defaults(folder: Path) -> dict[str, Any]:
    """What a Hugging Face folder recommends, as far as GGUF has keys for it. Raises ModelError."""
    found, neutral = recommended(str(folder)), SamplingParams()
    return {key: type(getattr(neutral, ours))(found[ours]) for key, ours in GGUF_NAMES.items() if ours in found}


def _of_folder(path: Path) -> dict[str, Any]:
    return _read(str(path), read_json_object(path), NAMES)


def _of_gguf(model: Path) -> dict[str, Any]:
    if model.is_dir() and not gguf_models(model):
        return {}
    checkpoint = open_checkpoint(model)
    return _read(checkpoint.path, checkpoint.metadata, GGUF_NAMES)


def _read(path: str, values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for theirs, ours in names.items():
        value = values.get(theirs)
        if value is None:
            continue
        if ours == "stages":
            if not isinstance(value, str):
                raise ModelError(f"{path}: {theirs} must be names of samplers parted by semicolons, got {value!r:.80}")
            value = stages(samplers(value.split(";")))
        given: dict[str, Any] = {ours: value}
        try:
            SamplingParams(**given)
        except RequestError as error:
            raise ModelError(f"{path}: {str(error).replace(ours, theirs, 1)}") from None
        found |= given
    return found
