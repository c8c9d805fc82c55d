"""vLLM's methods that there is no support for: they exist, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from trivet.errors import RequestError

C = TypeVar("C", bound=type)

POOLING = "models that embed, classify or score are not supported"
SLEEP = "sleep mode is not supported; close the engine to free its memory"
LORA = "LoRA is not supported"
WORKERS = "there are no worker processes to call"
WEIGHTS = "a model's weights cannot be changed while it runs"
PROFILE = "profiling is not supported"
PAUSE = "pausing is not supported; abort requests, or send them later"

REASONS = {
    **dict.fromkeys(("encode", "embed", "classify", "score", "reward"), POOLING),
    **dict.fromkeys(("sleep", "wake_up", "release_kv_cache_memory"), SLEEP),
    **dict.fromkeys(("add_lora", "remove_lora", "list_loras", "pin_lora"), LORA),
    **dict.fromkeys(("collective_rpc", "apply_model", "scale_elastic_ep"), WORKERS),
    **dict.fromkeys(("start_profile", "stop_profile"), PROFILE),
    **dict.fromkeys(("pause_generation", "resume_generation"), PAUSE),
    **dict.fromkeys(("init_weight_transfer_engine", "start_weight_update", "update_weights"), WEIGHTS),
    **dict.fromkeys(("finish_weight_update", "update_weight_version", "get_weight_version"), WEIGHTS),
}


def refuses(*names: str) -> Callable[[C], C]:
    """Give a class methods that raise RequestError, each with its reason."""

    def decorate(cls: C) -> C:
        for name in names:
            setattr(cls, name, _refusal(f"{cls.__name__}.{name}", REASONS[name]))
        return cls

    return decorate


def _refusal(name: str, reason: str) -> Callable[..., Any]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RequestError(f"{name}: {reason}")

    refuse.__name__ = refuse.__qualname__ = name.rpartition(".")[2]
    refuse.__doc__ = f"Not available: {reason}."
    return refuse
