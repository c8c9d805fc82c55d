"""From settings, as flags and variables give them, to what engine and server take."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from trivet.api.args import DEFAULT, EngineArgs
from trivet.api.vllm_args import VllmArgs
from trivet.cli.commandline import Settings, WrongUse
from trivet.engine.config import join_cache_dtype, split_cache_dtype
from trivet.server.options import ListenOptions, ServerOptions

logger = logging.getLogger(__name__)

ENGINE = {field.name for field in fields(EngineArgs)} - {field.name for field in fields(VllmArgs)}
SERVER = {field.name for field in fields(ServerOptions)}
LISTEN = {field.name for field in fields(ListenOptions)}
DERIVED = {
    "api_key_file": "a file with keys, one a line",
    "cache_type_k": "type of the cached keys",
    "cache_type_v": "type of the cached values",
    "config": "a file with flags",
    "ctx_size": "max_model_len, or the model's context where that is less",
    "kv_cache_tokens": "tokens that the cache holds at least: num_gpu_blocks_override * block_size",
    "max_concurrent_requests": "max_num_seqs + max_num_queued_reqs",
}
"""Settings that are no fields, but give some."""


def set_environment(settings: Settings) -> None:
    """Set the variables that libraries read, before these are loaded."""
    for name, value in settings.items():
        kind, _, variable = name.partition(".")
        if kind == "environ" and value is not None:
            os.environ[variable] = value


def engine_args(settings: Settings) -> EngineArgs:
    """Raises WrongUse for settings that contradict each other, RequestError for wrong values."""
    given = {name: value for name, value in settings.items() if name in ENGINE and value is not None}
    if name := given.get("served_model_name"):
        given["served_model_name"] = list(name)
    given.setdefault("seed", None)
    args = EngineArgs(**given)
    keys, values = split_cache_dtype(args.kv_cache_dtype)
    args.kv_cache_dtype = join_cache_dtype(settings.get("cache_type_k") or keys, settings.get("cache_type_v") or values)
    if args.max_model_len is None and (size := settings.get("ctx_size")):
        longest = context_length(args)
        if size > longest:
            logger.warning("the model's context is %d tokens, not %d", longest, size)
        args.max_model_len = min(size, longest)
    if (tokens := settings.get("kv_cache_tokens")) is not None:
        args.num_gpu_blocks_override = max(1, -(-tokens // args.block_size))
        if isinstance(args.max_model_len, int) and args.max_model_len > tokens:
            raise WrongUse(
                f"a KV cache of {tokens} tokens does not hold one request of {args.max_model_len}: "
                "max_batch_total_tokens must be at least max_total_tokens"
            )
    if (limit := settings.get("max_concurrent_requests")) is not None:
        args.max_num_seqs = min(args.max_num_seqs or DEFAULT.max_num_seqs, limit)
        args.max_num_queued_reqs = limit - args.max_num_seqs
    return args


def server_options(settings: Settings) -> ServerOptions:
    """Raises WrongUse for settings that contradict each other, or a file of keys that cannot be read."""
    given = {name: value for name, value in settings.items() if name in SERVER and value is not None}
    if file := settings.get("api_key_file"):
        given["api_keys"] = (*given.get("api_keys", ()), *keys_of(file))
    longest, total = settings.get("max_input_tokens"), settings.get("max_model_len")
    if longest is not None and total is not None and longest >= total:
        raise WrongUse(f"max_input_tokens must be less than max_total_tokens, got {longest} and {total}")
    return ServerOptions(**given, sampling_defaults=sampling_defaults(settings))


def listen_options(settings: Settings) -> ListenOptions:
    """Raises WrongUse for settings that contradict each other."""
    options = ListenOptions(**{name: value for name, value in settings.items() if name in LISTEN and value is not None})
    if options.ssl_keyfile and not options.ssl_certfile:
        raise WrongUse("a key without a certificate: give the certificate too (--ssl-certfile, --ssl-cert-file)")
    return options


def sampling_defaults(settings: Settings) -> dict[str, Any]:
    """Keywords of SamplingParams."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        kind, _, parameter = name.partition(".")
        if kind != "sampling" or value is None:
            continue
        if parameter == "logit_bias":
            value = {token: bias for part in value for token, bias in part.items()}
        elif parameter in ("stop", "dry_sequence_breakers"):
            value = [text for text in value if parameter == "stop" or text != "none"]
        found[parameter] = value
    return found


def keys_of(path: str) -> list[str]:
    """The keys of a file, one a line. Raises WrongUse."""
    try:
        keys = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise WrongUse(f"cannot read the keys in {path}: {getattr(error, 'strerror', None) or error}") from None
    if not any(keys):
        raise WrongUse(f"{path} holds no key")
    return [key for key in keys if key]


def context_length(args: EngineArgs) -> int:
    """Tokens that the model was made for. Raises ModelError."""
    from trivet.models.config import ModelConfig
    from trivet.weights import open_checkpoint
    from trivet.weights.hub import resolve

    path = resolve(args.model, args.revision, args.download_dir, args.hf_token)
    return ModelConfig.from_checkpoint(open_checkpoint(path)).context_length
