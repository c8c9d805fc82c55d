"""From an engine's configuration to a runtime that holds its model."""

from __future__ import annotations

import importlib.util
import logging
import re
from typing import TYPE_CHECKING

from trivet import _native
from trivet.engine.config import EngineConfig, join_cache_dtype, split_cache_dtype
from trivet.errors import EngineError
from trivet.graph.ops import Graph
from trivet.models import registry
from trivet.models.config import ModelConfig
from trivet.runtime.base import Runtime
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.gpu import LEAST_CAPABILITY, gpus
from trivet.runtime.hybrid import place
from trivet.runtime.weights import Progress
from trivet.weights import open_checkpoint

if TYPE_CHECKING:
    from trivet.runtime.cuda.runtime import CudaRuntime

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
INSTALL = "pip install 'trivet[cuda]'"
NEEDED = {"torch": "2.11", "triton": "3.6"}
"""As in pyproject.toml: at least these."""


def load_runtime(config: EngineConfig, progress: Progress | None = None) -> Runtime:
    """Raises ModelError when the model is damaged or not supported, EngineError for a wrong setting."""
    device = choose_device(config)
    checkpoint = open_checkpoint(config.model)
    model = ModelConfig.from_checkpoint(checkpoint, config.max_model_len)
    graph = registry.build(model, checkpoint)

    def on_cpu(part: Graph) -> CpuRuntime:
        keys, values = split_cache_dtype(config.kv_cache_dtype)
        if "fp8" in (keys, values):
            logger.warning(
                "kv_cache_dtype fp8: on the CPU the cache is kept in the model's own type, which is more exact"
            )
            keys, values = ("auto" if name == "fp8" else name for name in (keys, values))
        cache_dtype = join_cache_dtype(keys, values)
        return CpuRuntime(part, checkpoint, model, config.threads, cache_dtype, progress, config.numerics, config.mlock)

    def on_gpu(part: Graph) -> CudaRuntime:
        from trivet.runtime.cuda.runtime import CudaRuntime

        return CudaRuntime(part, checkpoint, model, config, progress)

    layers = len(graph.cache) if config.gpu_layers is None else config.gpu_layers
    try:
        return place(graph, layers if device == "cuda" else 0, on_cpu, on_gpu)
    finally:
        _native.expect_weights(0)


def choose_device(config: EngineConfig) -> str:
    """ "cpu" or "cuda". Raises EngineError, with what to do, where a GPU is asked for that cannot be used."""
    if config.device not in DEVICES:
        raise EngineError(f"device must be one of {', '.join(DEVICES)}, got {config.device}")
    if config.device == "cpu" or config.gpu_layers == 0:
        return "cpu"
    device = _usable(config.device == "cuda")
    if device == "cpu" and config.gpu_layers is not None:
        logger.warning("gpu_layers %d has no effect: there is no GPU that can be used", config.gpu_layers)
    return device


def _usable(wanted: bool) -> str:
    missing = [text for name, least in NEEDED.items() if (text := _missing(name, least))]
    found = gpus()
    if not wanted:
        if not found:
            return "cpu"
        if missing:
            text = " and ".join(missing)
            logger.info("there is a GPU, %s; to use it needs %s: %s", found[0].name, text, INSTALL)
        elif not found[0].supported:
            logger.info("the GPU, %s, is too old (compute capability %d.%d)", found[0].name, *found[0].capability)
        return "cuda" if found[0].supported and not missing else "cpu"
    if missing:
        raise EngineError(f"device cuda needs {' and '.join(missing)}: {INSTALL}")
    if not found:
        raise EngineError("device cuda: no NVIDIA GPU was found (does nvidia-smi show one?); use device cpu")
    if not found[0].supported:
        raise EngineError(
            f"device cuda: {found[0].name} has compute capability {'.'.join(map(str, found[0].capability))}; at least "
            f"{'.'.join(map(str, LEAST_CAPABILITY))} is needed; use device cpu"
        )
    return "cuda"


def _missing(name: str, least: str) -> str:
    """What to say of a package that is not installed or too old, else ""."""
    if importlib.util.find_spec(name) is None:
        return f"{name} {least} or later, which is not installed"
    from importlib import metadata  # A start without a GPU need not wait for it.

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:  # built by someone else, under another name
        return ""
    there, needed = (tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (version, least))
    return "" if there >= needed else f"{name} {least} or later, and {version} is installed"
