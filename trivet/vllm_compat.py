"""The names of `vllm` for scripts written for it.

    from trivet.vllm_compat import LLM, SamplingParams
    from trivet.vllm_compat.engine.arg_utils import AsyncEngineArgs

or, for scripts that are to stay as they are, `trivet.vllm_compat.install()` before their first import of `vllm`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

from trivet import __version__
from trivet.api.args import AsyncEngineArgs, EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.beam_search import BeamSearchOutput, BeamSearchSequence
from trivet.api.flat_logprobs import FlatLogprobs
from trivet.api.llm import LLM
from trivet.api.llm_engine import LLMEngine
from trivet.api.lora import LoRARequest
from trivet.api.outputs import CompletionOutput, Logprob, RequestOutput, RequestStateStats
from trivet.api.pooling import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingParams,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from trivet.api.prompts import Prompt, TextPrompt, TokensPrompt
from trivet.errors import EngineError, RequestError
from trivet.metrics.reader import Counter, Gauge, Histogram, Metric, Vector
from trivet.models.registry import ARCHITECTURES
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import (
    BeamSearchParams,
    RepetitionDetectionParams,
    RequestOutputKind,
    SamplingType,
    StructuredOutputsParams,
)

AsyncLLMEngine = AsyncLLM
PromptType = Prompt
__version_tuple__ = tuple(int(part) for part in __version__.split("."))
__path__: list[str] = []
"""Empty: the submodules are made below."""


class ModelRegistry:
    """The architectures that can be run; none can be added."""

    @staticmethod
    def get_supported_archs() -> list[str]:
        return sorted(ARCHITECTURES)

    @staticmethod
    def register_model(model_arch: str, model_cls: Any) -> NoReturn:
        raise RequestError(
            f"{model_arch}: no code that comes with a model is run; add an architecture to trivet/models"
        )


def initialize_ray_cluster(*_: Any, **__: Any) -> NoReturn:
    raise RequestError("Ray is not supported: there is one device, of one machine")


MODULES: dict[str, dict[str, Any]] = {
    "engine": {},
    "engine.arg_utils": {"EngineArgs": EngineArgs, "AsyncEngineArgs": AsyncEngineArgs},
    "engine.async_llm_engine": {"AsyncLLMEngine": AsyncLLM},
    "engine.llm_engine": {"LLMEngine": LLMEngine},
    "entrypoints": {},
    "entrypoints.llm": {"LLM": LLM},
    "entrypoints.generate": {},
    "entrypoints.generate.beam_search": {},
    "entrypoints.generate.beam_search.utils": {
        "BeamSearchOutput": BeamSearchOutput,
        "BeamSearchSequence": BeamSearchSequence,
    },
    "exceptions": {"VLLMValidationError": RequestError},
    "inputs": {"PromptType": Prompt, "TextPrompt": TextPrompt, "TokensPrompt": TokensPrompt},
    "logprobs": {"FlatLogprobs": FlatLogprobs, "Logprob": Logprob},
    "lora": {},
    "lora.request": {"LoRARequest": LoRARequest},
    "model_executor": {},
    "model_executor.models": {"ModelRegistry": ModelRegistry},
    "outputs": {
        "ClassificationOutput": ClassificationOutput,
        "ClassificationRequestOutput": ClassificationRequestOutput,
        "CompletionOutput": CompletionOutput,
        "EmbeddingOutput": EmbeddingOutput,
        "EmbeddingRequestOutput": EmbeddingRequestOutput,
        "PoolingOutput": PoolingOutput,
        "PoolingRequestOutput": PoolingRequestOutput,
        "RequestOutput": RequestOutput,
        "ScoringOutput": ScoringOutput,
        "ScoringRequestOutput": ScoringRequestOutput,
    },
    "pooling_params": {"PoolingParams": PoolingParams},
    "sampling_params": {
        "BeamSearchParams": BeamSearchParams,
        "GuidedDecodingParams": StructuredOutputsParams,
        "RepetitionDetectionParams": RepetitionDetectionParams,
        "RequestOutputKind": RequestOutputKind,
        "SamplingParams": SamplingParams,
        "SamplingType": SamplingType,
        "StructuredOutputsParams": StructuredOutputsParams,
    },
    "utils": {},
    "utils.argparse_utils": {"FlexibleArgumentParser": argparse.ArgumentParser},
    "v1": {},
    "v1.engine": {},
    "v1.engine.async_llm": {"AsyncLLM": AsyncLLM},
    "v1.engine.exceptions": {"EngineDeadError": EngineError, "EngineGenerateError": EngineError},
    "v1.engine.llm_engine": {"LLMEngine": LLMEngine},
    "v1.metrics": {},
    "v1.metrics.reader": {
        "Counter": Counter,
        "Gauge": Gauge,
        "Histogram": Histogram,
        "Metric": Metric,
        "Vector": Vector,
    },
    "v1.metrics.stats": {"RequestStateStats": RequestStateStats},
}
"""Where scripts import what from; a package is a module with nothing but submodules."""


def install() -> None:
    """Let `import vllm` import this. Raises ImportError when vLLM is installed."""
    here = sys.modules[__name__]
    if sys.modules.get("vllm") is here:
        return
    if importlib.util.find_spec("vllm") is not None:
        raise ImportError("vllm itself is installed; import trivet.vllm_compat instead, or uninstall it")
    sys.modules["vllm"] = here
    for path in MODULES:
        sys.modules[f"vllm.{path}"] = sys.modules[f"{__name__}.{path}"]


def _make_modules() -> None:
    for path, names in MODULES.items():
        module = ModuleType(f"{__name__}.{path}")
        vars(module).update(names, __path__=[])
        sys.modules[module.__name__] = module
        parent, _, name = module.__name__.rpartition(".")
        setattr(sys.modules[parent], name, module)


_make_modules()
