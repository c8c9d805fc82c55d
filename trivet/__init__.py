"""Trivet: one engine and server for large language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trivet.api.args import EngineArgs as EngineArgs
    from trivet.api.async_llm import AsyncLLM as AsyncLLM
    from trivet.api.llm import LLM as LLM
    from trivet.api.outputs import CompletionOutput as CompletionOutput
    from trivet.api.outputs import RequestOutput as RequestOutput
    from trivet.sampling.params import SamplingParams as SamplingParams
    from trivet.text.tokenizer import Tokenizer as Tokenizer

_HOMES = {
    "LLM": "trivet.api.llm",
    "AsyncLLM": "trivet.api.async_llm",
    "EngineArgs": "trivet.api.args",
    "CompletionOutput": "trivet.api.outputs",
    "RequestOutput": "trivet.api.outputs",
    "SamplingParams": "trivet.sampling.params",
    "Tokenizer": "trivet.text.tokenizer",
}
__all__ = [
    "AsyncLLM",
    "CompletionOutput",
    "EngineArgs",
    "LLM",
    "RequestOutput",
    "SamplingParams",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: `trivet --help` must not load numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trivet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
