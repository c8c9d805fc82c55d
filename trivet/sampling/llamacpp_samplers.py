"""The names of llama.cpp's samplers, and the stages that they are here."""

from __future__ import annotations

from collections.abc import Sequence

from trivet.sampling.params import LLAMACPP_STAGES

_NAMES: dict[str, tuple[str, str]] = {
    "penalties": ("penalties", "e"),
    "dry": ("dry", "d"),
    "top_n_sigma": ("top_n_sigma", "s top-n-sigma"),
    "top_k": ("top_k", "k top-k"),
    "typ_p": ("typical_p", "y typical typical_p typical-p typ-p typ"),
    "top_p": ("top_p", "p top-p nucleus"),
    "min_p": ("min_p", "m min-p"),
    "xtc": ("xtc", "x"),
    "temperature": ("temperature", "t temp"),
    "infill": ("infill", "i"),
    "adaptive_p": ("adaptive_p", "a adaptive-p"),
}
"""Name: its stage, then the other names of it."""
_STAGES = {name: stage for name, (stage, _) in _NAMES.items()}
_SAMPLERS = {stage: name for name, stage in _STAGES.items()}
_ALIASES = {alias: name for name, (_, aliases) in _NAMES.items() for alias in aliases.split()}


LETTERS = {name: aliases.split()[0] for name, (_, aliases) in _NAMES.items()}


def canonical(name: str) -> str | None:
    """A sampler's own name, from any that it has."""
    name = _ALIASES.get(name, name)
    return name if name in _STAGES else None


def samplers(given: Sequence[str]) -> list[str]:
    """Canonical names in order; unknown ones are skipped. A string holds one letter for each."""
    return [name for name in map(canonical, given) if name]


def stages(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_STAGES[name] for name in names)


def names_of(stages: Sequence[str]) -> list[str]:
    return [_SAMPLERS[stage] for stage in stages]


DEFAULT = names_of(LLAMACPP_STAGES)
