"""The flags that the help of `trivet serve` shows, in groups; most have vLLM's names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trivet.logs import FORMATS
from trivet.server.dialects.openai.flags import SETTINGS
from trivet.server.flags import Flag, choice, flag, log_level, number, or_default, size, url_path, whole

_VLLM = {row.spellings[0]: row for row in SETTINGS if row.names}


def _vllm(name: str, also: str = "", **changes: Any) -> Flag:
    return replace(_VLLM[name], names=f"{name} {also}".strip(), **{"env": "", **changes})


def dialect(text: str) -> str:
    """The name of a dialect."""
    from trivet.server.routing import DIALECTS

    return choice(*DIALECTS)(text)


GROUPS: dict[str, list[Flag]] = {
    "Model": [_vllm(name) for name in ("--tokenizer", "--chat-template", "--served-model-name")],
    "Address": [
        _vllm("--host", help=f"{_VLLM['--host'].help} 127.0.0.1 unless given; may be given again."),
        _vllm("--port", "-p", help="8080 unless given; 0 takes any that is free."),
        *[_vllm(name) for name in ("--uds", "--ssl-certfile", "--ssl-keyfile", "--root-path")],
        flag("--api-prefix", "api_prefix", url_path, "Path under which everything is served.", "PATH"),
    ],
    "Access": [
        _vllm("--api-key", env="TRIVET_API_KEY"),
        flag("--api-key-file", "api_key_file", str, "A file with keys, one a line.", "FILE"),
        _vllm("--allowed-origins"),
        flag("--payload-limit", "payload_limit", size, "Most bytes of a request: 16M unless given.", "SIZE"),
        flag(
            "--dialect",
            "dialect",
            dialect,
            "Whose the paths are that several have: openai, tgi, llamacpp or anthropic. By the request unless given.",
            "NAME",
        ),
    ],
    "Engine": [
        *[_vllm(name) for name in ("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens")],
        *[_vllm(name) for name in ("--scheduling-policy", "--max-num-queued-reqs", "--max-num-queued-tokens")],
        flag(
            "--threads -t", "threads", or_default(whole(0, 1024), "-1"), "Threads; one for each core unless given.", "N"
        ),
        _vllm("--device"),
        flag(
            "--n-gpu-layers",
            "gpu_layers",
            or_default(whole(0), "auto", "all", "-1"),
            "Compute so many of the last layers on the GPU, the others on the CPU. All unless given.",
        ),
        _vllm("--enforce-eager"),
        flag(
            "--numerics",
            "numerics",
            choice("exact", "fast"),
            "fast takes PyTorch's matrix products on a GPU, and for prompts on a CPU those of int8 that AVX-512 and "
            "AMX have for quantised weights, and theirs of bfloat16 for attention: a request's tokens then depend on "
            "what is beside it. Elsewhere it is the same as exact.",
            "KIND",
        ),
        _vllm("--kv-cache-dtype"),
        _vllm("--kv-cache-memory-bytes", "--kv-cache-memory"),
        *[_vllm(name) for name in ("--gpu-memory-utilization", "--block-size", "--enable-prefix-caching")],
        flag(
            "--prefix-cache-dir",
            "prefix_cache_dir",
            str,
            "Folder that keeps what is computed of prompts, so that a server that is started again has it.",
            "DIR",
        ),
        flag("--prefix-cache-size", "prefix_cache_size", size, "Most bytes of that folder: 8G unless given.", "SIZE"),
        _vllm("--seed", "-s", help=f"{_VLLM['--seed'].help} A new one unless given."),
        flag("--mlock", "mlock", None, "Keep weights and KV cache from being swapped out."),
    ],
    "Log and end": [
        flag("--log-requests", "log_requests", None, "Log a line for each request; never its text."),
        flag("--log-level", "log_level", log_level, "debug, info, warning, error or critical.", "LEVEL"),
        flag("--log-format", "log_format", choice(*FORMATS), "text, or json: an object for each line.", "FORMAT"),
        flag("--log-file", "log_file", str, "Log there instead of on standard error.", "FILE"),
        _vllm("--otlp-traces-endpoint"),
        flag(
            "--request-timeout",
            "request_timeout",
            number(0),
            "Seconds that an answer may take, its wait included; then it ends with an error. No limit unless given.",
            "S",
        ),
        flag(
            "--step-timeout",
            "step_timeout",
            number(0.1),
            "Seconds without a step after which the engine's process is started again: 600 unless given.",
            "S",
        ),
        flag("--read-timeout", "read_timeout", number(0.1), "Seconds that a client has to send a request: 30.", "S"),
        _vllm("--shutdown-timeout", "--drain-timeout", help=f"{_VLLM['--shutdown-timeout'].help} 30 unless given."),
    ],
}
FLAGS = [row for rows in GROUPS.values() for row in rows]
