"""What a model's makers recommend for sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trivet.weights.safetensors import read_json_object

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


def recommended(model: str) -> dict[str, Any]:
    """Sampling parameters from the `generation_config.json` of a Hugging Face folder; empty when there is none.

    Raises ModelError when the file is not a JSON object.
    """
    path = Path(model) / "generation_config.json"
    if not path.is_file():
        return {}
    found = read_json_object(path)
    return {ours: found[theirs] for theirs, ours in NAMES.items() if found.get(theirs) is not None}
