"""The flags of `vllm serve`, whose names of settings are ours too."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from typing import Any

from trivet.api.args import DTYPES
from trivet.api.vllm_args import NO, VllmArgs
from trivet.server.flags import (
    NO_SUCH_CACHE,
    Flag,
    cache_dtype,
    choice,
    device,
    flag,
    forbidden,
    idle,
    json_object,
    log_level,
    number,
    or_default,
    refused,
    size,
    unused,
    url_path,
    whole,
)

DEFAULTS: dict[str, Any] = {
    "dialect": "openai",
    "hosts": ("0.0.0.0",),
    "port": 8000,
    "seed": 0,
    "trust_request_chat_template": False,
}
"""Settings of `trivet vllm serve`."""

ONE_PROCESS = "one process computes the model"
NO_TOOLS = "there are no tool calls here"
NO_ADAPTERS = "models have no adapters here"
NO_CODE = "no code from outside is run"
ALWAYS = "it is always so"
KV_CACHE_DTYPE = (
    "f32, f16, bf16, q8_0 (on a CPU), KEYS/VALUES of two of these, or fp8 (on a GPU); auto is f32 for float32 weights, "
    "on a CPU f16 for other weights that are floats, else bf16."
)

SETTINGS: list[Flag] = [
    flag("--config", "config", str, "A YAML file with flags, which the command line overrides.", "FILE"),
    flag("--model", "model", str, "A .gguf file, a folder or a hub id.", "MODEL"),
    flag("--tokenizer", "tokenizer", str, "Where it is, when not with the model.", "PATH"),
    flag("--chat-template", "chat_template", str, "A Jinja template, or a file with one.", "FILE"),
    flag(
        "--trust-request-chat-template",
        "trust_request_chat_template",
        None,
        "Let requests bring their own templates, which run in a sandbox. All but `trivet vllm serve` do so anyway.",
    ),
    flag(
        "--default-chat-template-kwargs",
        "default_chat_template_kwargs",
        json_object,
        "Variables for the template, where a request does not give them.",
        "JSON",
    ),
    flag(
        "--served-model-name",
        "served_model_name",
        str,
        "What clients call the model; may be given again, the first is reported.",
        "NAME",
        several=True,
        many=True,
    ),
    flag("--dtype", "dtype", choice(*DTYPES), "Type of the KV cache, where that has none of its own.", "TYPE"),
    flag(
        "--max-model-len",
        "max_model_len",
        or_default(size, "auto", "-1"),
        "Tokens of prompt and output together; 16k is 16000, 16K is 16384. The model's own unless given.",
    ),
    flag("--max-num-seqs", "max_num_seqs", whole(1), "Most sequences of one step: 128 unless given."),
    flag("--max-num-batched-tokens", "max_num_batched_tokens", size, "Most tokens of one step: 2048 unless given."),
    flag(
        "--scheduling-policy",
        "scheduling_policy",
        choice("fcfs", "priority"),
        "fcfs serves who comes first; priority serves requests of lower `priority` first.",
        "POLICY",
    ),
    flag("--max-num-queued-reqs", "max_num_queued_reqs", whole(0), "Refuse requests when so many wait: 1024."),
    flag("--max-num-queued-tokens", "max_num_queued_tokens", size, "Refuse requests when so many prompt tokens wait."),
    flag("--block-size", "block_size", whole(1), "Tokens of a cache block: 16, 32, 64 or 128."),
    flag("--kv-cache-dtype", "kv_cache_dtype", cache_dtype, KV_CACHE_DTYPE, "TYPE", remarks=NO_SUCH_CACHE),
    flag(
        "--kv-cache-memory-bytes",
        "kv_cache_memory_bytes",
        size,
        "Memory for the KV cache: 500M, 4G. What a few sequences need unless given.",
        "SIZE",
    ),
    flag(
        "--gpu-memory-utilization",
        "gpu_memory_utilization",
        number(0, 1),
        "Share of a GPU's memory that may be in use; on the CPU, most of the free memory that the KV cache may take.",
        "SHARE",
    ),
    flag("--device", "device", device, "auto, cpu or cuda; auto takes an NVIDIA GPU where there is one.", "DEVICE"),
    flag("--enforce-eager", "enforce_eager", None, "On a GPU, do without CUDA graphs."),
    flag("--num-gpu-blocks-override", "num_gpu_blocks_override", whole(1), "Blocks of the KV cache."),
    flag(
        "--enable-prefix-caching",
        "enable_prefix_caching",
        None,
        "Reuse the cache of prompts that begin alike; --no-enable-prefix-caching does not.",
    ),
    flag("--seed", "seed", whole(), "Seeds of requests that give none follow from it."),
    flag("--revision", "revision", str, "Branch, tag or commit of a model on the hub.", "NAME"),
    flag("--download-dir", "download_dir", str, "Folder that models are downloaded to.", "DIR"),
    flag("--hf-token", "hf_token", str, "Token for the hub.", "TOKEN"),
    flag(
        "--generation-config",
        "generation_config",
        str,
        "auto takes defaults of sampling from generation_config.json or the GGUF, vllm from none, else a folder.",
        "WHENCE",
    ),
    flag(
        "--override-generation-config",
        "override_generation_config",
        json_object,
        "Further defaults of sampling, by the keys of that file.",
        "JSON",
    ),
    flag(
        "--performance-mode",
        "performance_mode",
        choice("balanced", "interactivity", "throughput"),
        "throughput doubles what a step has by default.",
        "MODE",
    ),
    flag("--stream-interval", "stream_interval", whole(1), "Tokens between the events of a stream."),
    flag(
        "--host",
        "hosts",
        str,
        "Address to serve at; 0.0.0.0 opens the server to the network, PATH.sock is a unix socket.",
        "HOST",
        several=True,
    ),
    flag("--port", "port", whole(0, 65535), "Port to serve at; 0 takes any that is free."),
    flag("--uds", "uds", str, "Serve at this unix socket instead.", "PATH"),
    flag("--root-path", "root_path", url_path, "Path under which a proxy shows this server.", "PATH"),
    flag(
        "--api-key",
        "api_keys",
        str,
        "Refuse requests without this key; may be given again.",
        "KEY",
        several=True,
        many=True,
        env="VLLM_API_KEY",
    ),
    flag(
        "--allowed-origins",
        "allowed_origins",
        str,
        "Let pages of this origin call (CORS); * is any, localhost those of this machine.",
        "ORIGIN",
        several=True,
        many=True,
    ),
    flag("--allowed-methods", "allowed_methods", str, "With these methods.", "METHOD", several=True, many=True),
    flag("--allowed-headers", "allowed_headers", str, "With these headers.", "HEADER", several=True, many=True),
    flag("--allow-credentials", "allow_credentials", None, "With credentials."),
    flag("--ssl-certfile", "ssl_certfile", str, "Serve HTTPS with this certificate (PEM).", "FILE"),
    flag("--ssl-keyfile", "ssl_keyfile", str, "The certificate's key (PEM), when not in the same file.", "FILE"),
    flag("--ssl-ca-certs", "ssl_ca_certs", str, "Authorities of clients' certificates.", "FILE"),
    flag("--ssl-cert-reqs", "ssl_cert_reqs", whole(0, 2), "2 requires them of clients."),
    flag("--ssl-ciphers", "ssl_ciphers", str, "In OpenSSL's words.", "CIPHERS"),
    flag("--logprobs-mode", "logprobs_mode", choice("raw_logprobs"), "Of the model's own distribution.", "MODE"),
    flag("--max-logprobs", "max_logprobs", whole(-1), "Most `logprobs` of a request: 20 unless given, -1 is no limit."),
    flag("--enable-prompt-tokens-details", "prompt_tokens_details", None, "Report cached tokens in `usage`."),
    flag("--enable-per-request-metrics", "request_metrics", None, "Tell in `metrics` what a request took."),
    flag("--enable-force-include-usage", "force_include_usage", None, "Report `usage` in every chunk of every stream."),
    flag("--return-tokens-as-token-ids", "tokens_as_ids", None, "Call tokens `token_id:N` in all logprobs."),
    flag("--enable-log-requests", "log_requests", None, "Log a line for each request; never its text."),
    flag(
        "--otlp-traces-endpoint",
        "otlp_traces_endpoint",
        str,
        "Send OpenTelemetry traces there, http://localhost:4317; needs trivet[otel].",
        "URL",
    ),
    flag("--uvicorn-log-level", "log_level", log_level, "Level of the log.", "LEVEL", env="VLLM_LOGGING_LEVEL"),
    flag("--shutdown-timeout", "shutdown_timeout", number(0), "Seconds that running requests have at the end.", "S"),
    flag("", "keep_alive", whole(1), "Seconds that an idle connection stays open.", env="VLLM_HTTP_TIMEOUT_KEEP_ALIVE"),
    flag("", "max_stop_strings", whole(0), "Most stop strings of a request.", env="VLLM_MAX_STOP_STRINGS"),
    flag("", "max_prompts", whole(1), "Most prompts of a request.", env="VLLM_MAX_COMPLETION_PROMPTS"),
]
"""What has a meaning here."""

SERVER: list[Flag] = [
    refused("--lora-modules", NO_ADAPTERS, many=True),
    refused("--api-server-count", ONE_PROCESS, "1"),
    forbidden("--headless", ONE_PROCESS),
    refused("--task", "models generate text", "auto", "generate"),
    forbidden("--enable-auto-tool-choice", NO_TOOLS),
    refused("--tool-call-parser", NO_TOOLS, ""),
    refused("--tool-parser-plugin", NO_CODE, ""),
    refused("--tool-server", NO_TOOLS, ""),
    refused("--middleware", NO_CODE, "[]", many=True),
    forbidden("--grpc", "only HTTP is served"),
    unused("--grpc-port", "only HTTP is served"),
    refused("--response-role", "answers are the assistant's", "assistant"),
    forbidden("--trust-request-mm-kwargs", "prompts are text only"),
    forbidden("--enable-tokenizer-info-endpoint", "there is no /tokenizer_info"),
    forbidden("--enable-scale-out", ONE_PROCESS),
    *[
        idle(names, why)
        for names, why in {
            "--disable-log-requests": "requests are logged only with --log-requests",
            "--disable-uvicorn-access-log": "requests are logged only with --log-requests",
            "--enable-ssl-refresh": "start the server again when the certificate changes",
            "--disable-fastapi-docs": "there is no /docs",
            "--enable-offline-docs": "there is no /docs",
            "--exclude-tools-when-tool-choice-none": NO_TOOLS,
            "--enable-log-outputs": "texts are never logged",
            "--enable-log-deltas": "texts are never logged",
            "--log-error-stack": "the log has the stack of what is a fault of ours",
            "--enable-server-load-tracking": ALWAYS,
            "--enable-request-id-headers": ALWAYS,
        }.items()
    ],
    *[
        unused(names, why)
        for names, why in {
            "--swap-space": "what is preempted is computed again",
            "--calculate-kv-scales": "an fp8 KV cache has no scales",
            "--max-seq-len-to-capture": "graphs are of all lengths",
            "--max-num-partial-prefills": "the scheduler has no such limit; see --max-num-batched-tokens",
            "--max-long-partial-prefills": "the scheduler has no such limit; see --max-num-batched-tokens",
            "--disable-access-log-for-endpoints": "requests are logged only with --log-requests",
            "--h11-max-incomplete-event-size": "see --payload-limit",
            "--h11-max-header-count": "headers have the usual limits",
            "--chat-template-content-format": "templates are given what they can take",
            "--tool-strict-level": NO_TOOLS,
            "--max-log-len": "texts are never logged",
            "--sse-keep-alive-interval": "streams send a comment when they are quiet",
            "--fingerprint-mode": "`system_fingerprint` has one form",
            "--fingerprint-value": "`system_fingerprint` has one form",
        }.items()
    ],
]
"""The rest of the server's."""

SHORT = {
    "quantization": "-q",
    "tensor_parallel_size": "-tp",
    "pipeline_parallel_size": "-pp",
    "data_parallel_size": "-dp",
    "prefill_context_parallel_size": "-pcp",
    "decode_context_parallel_size": "-dcp",
    "data_parallel_rank": "-dpn",
    "data_parallel_start_rank": "-dpr",
    "data_parallel_size_local": "-dpl",
    "data_parallel_address": "-dpa",
    "data_parallel_rpc_port": "-dpp",
    "data_parallel_backend": "-dpb",
    "data_parallel_hybrid_lb": "-dph",
    "data_parallel_external_lb": "-dpe",
    "enable_expert_parallel": "-ep",
    "compilation_config": "-cc",
    "optimization_level": "-O",
}
"""Short spellings of engine arguments."""


def engine_flag(argument: Field[Any]) -> Flag:
    """The flag of an argument of `VllmArgs`, which says itself what it may be."""
    names = f"--{argument.name.replace('_', '-')} {SHORT.get(argument.name, '')}".strip()
    why, also = argument.metadata["why"], argument.metadata["also"]
    switch = argument.type == "bool" or argument.name.startswith(("enable_", "disable_", "async_"))
    allowed = None
    if also is not None:
        values = [value for value in (argument.default, *also) if value is not None and value is not MISSING]
        allowed = tuple(json.dumps(value).strip('"').lower() for value in values)
        allowed += tuple(f"{value:g}" for value in values if isinstance(value, float))
        allowed += ("false",) if switch and not allowed else () if switch else ("", "none", "{}", "[]")
    reason = "there is nothing like it here" if why == NO else why
    return Flag(names=names, help=reason, read=None if switch else str, allowed=allowed)


_TAKEN = {name for row in (*SETTINGS, *SERVER) for name in row.spellings}
ENGINE = [row for row in map(engine_flag, fields(VllmArgs)) if row.spellings[0] not in _TAKEN]
"""Arguments of the engine that change nothing here, or may not."""

FLAGS = [*SETTINGS, *SERVER, *ENGINE]
