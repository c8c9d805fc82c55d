"""The flags of TGI's launcher. Each has a variable of the same name: `--max-input-tokens` is MAX_INPUT_TOKENS."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from trivet.server.flags import (
    NO_SUCH_CACHE,
    Flag,
    cache_dtype,
    choice,
    flag,
    forbidden,
    idle,
    log_level,
    number,
    refused,
    size,
    unused,
    whole,
)

DEFAULTS: dict[str, Any] = {
    "dialect": "tgi",
    "hosts": ("0.0.0.0",),
    "port": 3000,
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_strings": 4,
    "max_top_n_tokens": 5,
    "max_num_batched_tokens": 4096,
    "payload_limit": 2_000_000,
    "otlp_service_name": "text-generation-inference.router",
    "allowed_origins": ("*",),
    "shutdown_timeout": 90.0,
}
"""Settings of `trivet tgi`."""


def template_of(path: str) -> str:
    """The chat template of a `tokenizer_config.json`."""
    try:
        template = json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        template = None
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise ValueError(f"{path} has no chat_template")
    return template


def container_address(text: str) -> tuple[str, ...] | None:
    """An IP address. A container sets HOSTNAME to a name of its own, which is not where to serve."""
    try:
        return (str(ipaddress.ip_address(text)),)
    except ValueError:
        return None


def filter_level(text: str) -> str:
    """The level of a filter like `warn,text_generation_router=debug`."""
    return log_level(next((part for part in text.split(",") if "=" not in part), "info"))


def graph_sizes(text: str) -> bool:
    """Whether there is to be no graph."""
    sizes = [whole(0)(size.strip()) for size in text.split(",")]
    return not any(sizes)


ONE_MACHINE = "one process computes the model"
NO_WAITING = "prompts are cut into pieces and computed beside the running requests, so that nothing waits to be joined"

_FLAGS = [
    flag("--model-id", "model", str, "A .gguf file, a folder or a hub id.", "MODEL"),
    flag("--revision", "revision", str, "Branch, tag or commit of a model on the hub.", "NAME"),
    unused("--validation-workers", "prompts are encoded by threads as needed"),
    refused("--sharded", ONE_MACHINE, "false"),
    refused("--num-shard", ONE_MACHINE, "1"),
    refused("--quantize", "weights are computed in the format they are stored in; see `trivet quantize`", ""),
    unused("--speculate", "tokens are not guessed ahead, which changes the speed only"),
    flag("--dtype", "dtype", choice("float16", "bfloat16"), "Type of the KV cache.", "TYPE"),
    flag("--kv-cache-dtype", "kv_cache_dtype", cache_dtype, "Of the KV cache.", "TYPE", remarks=NO_SUCH_CACHE),
    idle("--trust-remote-code", "no code of a model's is ever run"),
    flag(
        "--max-concurrent-requests",
        "max_concurrent_requests",
        whole(1),
        "Refuse requests (429) past so many, running or waiting.",
    ),
    flag("--max-best-of", "max_best_of", whole(1), "Most `best_of` of a request."),
    flag("--max-stop-sequences", "max_stop_strings", whole(0), "Most stop strings of a request."),
    flag("--max-top-n-tokens", "max_top_n_tokens", whole(0), "Most `top_n_tokens` of a request."),
    flag("--max-input-tokens --max-input-length", "max_input_tokens", whole(1), "Most tokens of a prompt."),
    flag("--max-total-tokens", "max_model_len", size, "Tokens of prompt and output together."),
    unused("--waiting-served-ratio", NO_WAITING),
    flag("--max-batch-prefill-tokens", "max_num_batched_tokens", size, "Most tokens of one step."),
    flag("--max-batch-total-tokens", "kv_cache_tokens", size, "Tokens that the KV cache holds."),
    unused("--max-waiting-tokens", NO_WAITING),
    flag("--max-batch-size", "max_num_seqs", whole(1), "Most sequences of one step."),
    flag(
        "--cuda-graphs",
        "enforce_eager",
        graph_sizes,
        "0 does without CUDA graphs; other sizes are captured as batches need them.",
        "SIZES",
    ),
    flag("--hostname", "hosts", str, "Address to serve at.", "HOST", several=True),
    flag("--port -p", "port", whole(0, 65535), "Port to serve at."),
    unused("--prometheus-port", "/metrics is at the server's own port"),
    unused("--shard-uds-path", ONE_MACHINE),
    unused("--master-addr", ONE_MACHINE),
    unused("--master-port", ONE_MACHINE),
    flag("--huggingface-hub-cache", "download_dir", str, "Folder that models are downloaded to.", "DIR"),
    refused("--weights-cache-override", "give that folder as the model", ""),
    idle("--disable-custom-kernels", "every kernel is our own"),
    flag(
        "--cuda-memory-fraction",
        "gpu_memory_utilization",
        number(0, 1),
        "Share of a GPU's memory that may be in use.",
        "SHARE",
    ),
    refused("--rope-scaling", "the model's own scaling is used", ""),
    refused("--rope-factor", "the model's own scaling is used", "", "1", "1.0"),
    flag("--json-output", "log_format", None, "Log an object for each line.", on="json"),
    flag(
        "--otlp-endpoint",
        "otlp_traces_endpoint",
        str,
        "Send OpenTelemetry traces there, http://localhost:4317; needs trivet[otel].",
        "URL",
    ),
    flag("--otlp-service-name", "otlp_service_name", str, "What traces call this server.", "NAME"),
    flag("--cors-allow-origin", "allowed_origins", str, "Let pages of this origin call.", "ORIGIN", several=True),
    flag("--api-key", "api_keys", str, "Refuse requests without this key.", "KEY", several=True),
    refused("--watermark-gamma", "watermarks have TGI's usual gamma", "0.5"),
    refused("--watermark-delta", "watermarks have TGI's usual delta", "2", "2.0"),
    forbidden("--ngrok", "serve at an address of this machine and forward to it"),
    unused("--ngrok-authtoken", "there is no ngrok"),
    unused("--ngrok-edge", "there is no ngrok"),
    flag(
        "--tokenizer-config-path",
        "chat_template",
        template_of,
        "A tokenizer_config.json whose chat template is used.",
        "FILE",
    ),
    idle("--disable-grammar-support", "requests with a grammar are refused"),
    idle("--env -e", "see `trivet inspect --system`"),
    flag("--max-client-batch-size", "max_client_batch_size", whole(1), "Most prompts of a completions request."),
    refused("--lora-adapters", "models have no adapters here", ""),
    unused("--usage-stats", "nothing is reported to anybody"),
    flag("--payload-limit", "payload_limit", size, "Most bytes of a request.", "BYTES"),
    idle("--enable-prefill-logprobs", "`decoder_input_details` always has its data"),
    flag(
        "--graceful-termination-timeout -g",
        "shutdown_timeout",
        number(0),
        "Seconds that running requests have at the end.",
        "S",
    ),
]


def _with_variables(row: Flag) -> Flag:
    if row.sets == "hosts":
        return row
    names = [name[2:].replace("-", "_").upper() for name in row.spellings if name.startswith("--")]
    return replace(row, env=" ".join(names))


FLAGS = [
    *map(_with_variables, _FLAGS),
    flag("", "hosts", container_address, "Address to serve at; names are ignored.", "IP", env="HOSTNAME"),
    flag("", "log_level", filter_level, "Level of the log.", "LEVEL", env="LOG_LEVEL"),
    flag("", "enable_prefix_caching", None, "Reuse the cache of prompts that begin alike.", env="PREFIX_CACHING"),
    flag("", "hf_token", str, "Token for the hub.", "TOKEN", env="HUGGING_FACE_HUB_TOKEN HF_API_TOKEN"),
    flag("", "threads", whole(0), "Threads.", env="OMP_NUM_THREADS"),
    unused("", "prompts are always cut into pieces", env="PREFILL_CHUNKING"),
    unused("", "attention is computed one way", env="ATTENTION"),
]
