"""What a model's makers recommend for sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivet.errors import ModelError, RequestError
from trivet.sampling.params import SamplingParams
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


def recommended(model: str, source: str = "auto", override: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sampling parameters from the `generation_config.json` of a Hugging Face folder; empty when there is none.

    source: "auto" is the model's folder, "vllm" none, else another folder, which must have the file.
    override: further ones by the file's names, or those of SamplingParams; they win.

    Raises ModelError when the file is not a JSON object, RequestError for a name that means nothing.
    """
    found: dict[str, Any] = {}
    path = Path(model if source == "auto" else source) / CONFIG
    if source != "vllm" and (source != "auto" or path.is_file()):
        if not path.is_file():
            raise ModelError(f"generation_config: {source} is not 'auto', 'vllm' or a folder with {CONFIG}")
        config = read_json_object(path)
        found = {ours: config[theirs] for theirs, ours in NAMES.items() if config.get(theirs) is not None}
    for name, value in (override or {}).items():
        ours = NAMES.get(name, name)
        if ours not in SamplingParams.__struct_fields__:
            raise RequestError(f"override_generation_config: {name} is no parameter of sampling", name)
        found[ours] = value
    return found
