"""From an engine's configuration to a runtime that holds its model."""

from __future__ import annotations

from trivet.engine.config import EngineConfig
from trivet.graph.passes import optimize
from trivet.models import registry
from trivet.models.config import ModelConfig
from trivet.runtime.base import Runtime
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.weights import Progress
from trivet.weights import open_checkpoint


def load_runtime(config: EngineConfig, progress: Progress | None = None) -> Runtime:
    """Raises ModelError when the model is damaged or not supported, EngineError for a wrong setting."""
    checkpoint = open_checkpoint(config.model)
    model = ModelConfig.from_checkpoint(checkpoint, config.max_model_len)
    graph = optimize(registry.build(model, checkpoint))
    return CpuRuntime(graph, checkpoint, model, config.threads, config.kv_cache_dtype, progress)
