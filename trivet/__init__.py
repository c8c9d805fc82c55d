"""Trivet: one engine and server for large language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trivet.api.args import AsyncEngineArgs as AsyncEngineArgs
    from trivet.api.args import EngineArgs as EngineArgs
    from trivet.api.async_llm import AsyncLLM as AsyncLLM
    from trivet.api.async_llm import AsyncLLM as AsyncLLMEngine
    from trivet.api.llm import LLM as LLM
    from trivet.api.llm_engine import LLMEngine as LLMEngine
    from trivet.api.outputs import CompletionOutput as CompletionOutput
    from trivet.api.outputs import RequestOutput as RequestOutput
    from trivet.api.prompts import TextPrompt as TextPrompt
    from trivet.api.prompts import TokensPrompt as TokensPrompt
    from trivet.sampling.params import SamplingParams as SamplingParams
    from trivet.sampling.vllm_params import BeamSearchParams as BeamSearchParams
    from trivet.sampling.vllm_params import RequestOutputKind as RequestOutputKind
    from trivet.text.tokenizer import Tokenizer as Tokenizer

_HOMES = {
    "AsyncEngineArgs": "trivet.api.args",
    "AsyncLLM": "trivet.api.async_llm",
    "AsyncLLMEngine": "trivet.api.async_llm",
    "BeamSearchParams": "trivet.sampling.vllm_params",
    "CompletionOutput": "trivet.api.outputs",
    "EngineArgs": "trivet.api.args",
    "LLM": "trivet.api.llm",
    "LLMEngine": "trivet.api.llm_engine",
    "RequestOutput": "trivet.api.outputs",
    "RequestOutputKind": "trivet.sampling.vllm_params",
    "SamplingParams": "trivet.sampling.params",
    "TextPrompt": "trivet.api.prompts",
    "TokensPrompt": "trivet.api.prompts",
    "Tokenizer": "trivet.text.tokenizer",
}
__all__ = [
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EngineArgs",
    "LLM",
    "LLMEngine",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: `trivet --help` must not load numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trivet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
