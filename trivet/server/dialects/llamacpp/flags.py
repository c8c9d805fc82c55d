"""The flags of llama-server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trivet.server.dialects.llamacpp.sampling_flags import SAMPLING
from trivet.server.flags import (
    FALSE,
    NO_SUCH_CACHE,
    TRUE,
    Flag,
    cache_type,
    choice,
    device,
    file_text,
    flag,
    forbidden,
    idle,
    json_object,
    or_default,
    refused,
    size,
    truth,
    unused,
    url_path,
    whole,
)

DEFAULTS: dict[str, Any] = {
    "dialect": "llamacpp",
    "port": 8080,
    "allowed_origins": ("*",),
    "metrics_endpoint": False,
}
"""Settings of `trivet llama-server`. The dialect itself has llama.cpp's defaults of sampling."""

LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO")
"""Of `--verbosity`; past them is DEBUG."""


def verbosity(text: str) -> str:
    value = whole(0)(text)
    return LEVELS[value] if value < len(LEVELS) else "DEBUG"


def load_mode(text: str) -> bool:
    """Whether to lock."""
    return "mlock" in choice("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")(text)


def predicted(text: str) -> int:
    """-2, until the context is full, is what -1 means here too."""
    return max(-1, whole(-2)(text))


def folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise ValueError(f"must be a folder, got {text!r}")
    return path


TRUTH_OR_AUTO = choice("auto", "-1", *TRUE, *FALSE)

PLACED = "layers are placed whole, by --n-gpu-layers"
ONE_GPU = "one GPU computes the model"
NO_PINNING = "threads are not pinned"
NO_ROPE = "the model's own scaling is used"
NO_DRAFT = "tokens are not guessed ahead, which changes the speed only"
NO_CACHE_MODEL = "the paged KV cache shares what prompts have in common"
ONE_MODEL = "one model is served"
NO_MEDIA = "prompts are text only"
NO_TOOLS = "no tools are run here"
NO_ADAPTERS = "models have no adapters here"
NO_EMBEDDINGS = "models only generate text here"
NO_GRAMMAR = "answers follow no grammar here"
NO_PRESET = "give the model with -hf"

FLAGS: list[Flag] = [
    # Model
    flag("-m --model", "model", str, "A .gguf file, a folder or a hub id.", "MODEL", env="LLAMA_ARG_MODEL"),
    flag("-hf -hfr --hf-repo", "model", str, "A hub id: org/name, org/name:Q4_K_M.", "ID", env="LLAMA_ARG_HF_REPO"),
    refused("-hff --hf-file", "name the quantisation instead: -hf org/name:Q4_K_M", "", env="LLAMA_ARG_HF_FILE"),
    flag("-hft --hf-token", "hf_token", str, "Token for the hub.", "TOKEN"),
    refused("-mu --model-url", "download it first, or use -hf", "", env="LLAMA_ARG_MODEL_URL"),
    refused("-dr --docker-repo", "models come from the Hugging Face Hub: use -hf", "", env="LLAMA_ARG_DOCKER_REPO"),
    flag(
        "-a --alias",
        "served_model_name",
        str,
        "What clients call the model; the first is reported.",
        "NAME",
        several=True,
        env="LLAMA_ARG_ALIAS",
    ),
    unused("--tags", "models have no tags", env="LLAMA_ARG_TAGS"),
    flag(
        "--offline",
        "environ.HF_HUB_OFFLINE",
        None,
        "Take models from the local cache.",
        on="1",
        env="LLAMA_ARG_OFFLINE",
    ),
    refused("--override-kv", "convert the model with other metadata", ""),
    idle("--check-tensors", "a damaged file is refused anyway"),
    # Threads
    flag(
        "-t --threads",
        "threads",
        or_default(whole(0, 1024), "-1"),
        "Threads; -1 is one for each core.",
        env="LLAMA_ARG_THREADS",
    ),
    unused("-tb --threads-batch", "the same threads compute prompts and tokens"),
    *[
        unused(names, NO_PINNING)
        for names in (
            *("-C --cpu-mask", "-Cr --cpu-range", "--cpu-strict", "--prio", "-Cb --cpu-mask-batch"),
            *("-Crb --cpu-range-batch", "--cpu-strict-batch", "--prio-batch"),
        )
    ],
    unused("--poll", "threads wait shortly, then sleep"),
    unused("--poll-batch", "threads wait shortly, then sleep"),
    unused("--numa", NO_PINNING, env="LLAMA_ARG_NUMA"),
    unused("--threads-http", "requests share one event loop", env="LLAMA_ARG_THREADS_HTTP"),
    # Context and batch
    flag(
        "-c --ctx-size",
        "ctx_size",
        or_default(size, "0"),
        "Tokens of prompt and output together, of each request (not shared by the slots), at most the model's own.",
        env="LLAMA_ARG_CTX_SIZE",
    ),
    flag(
        "-n --predict --n-predict",
        "n_predict",
        predicted,
        "Most tokens of an answer; -1 is as many as fit.",
        env="LLAMA_ARG_N_PREDICT",
    ),
    flag("-b --batch-size", "max_num_batched_tokens", size, "Most tokens of one step.", env="LLAMA_ARG_BATCH"),
    unused("-ub --ubatch-size", "a step is computed in one piece", env="LLAMA_ARG_UBATCH"),
    unused("--keep", "the context is never shifted"),
    flag(
        "-np --parallel",
        "max_num_seqs",
        or_default(whole(1), "-1"),
        "Most sequences of one step; -1 is 128.",
        env="LLAMA_ARG_N_PARALLEL",
    ),
    idle(
        "-cb --cont-batching",
        "batching is always continuous",
        off="-nocb --no-cont-batching",
        env="LLAMA_ARG_CONT_BATCHING",
    ),
    idle("-kvu --kv-unified", "all share one paged cache", off="-no-kvu", env="LLAMA_ARG_KV_UNIFIED"),
    flag(
        "--kv-unified-per-slot",
        "max_model_len",
        size,
        "Tokens of prompt and output together, of each request.",
        env="LLAMA_ARG_KV_UNIFIED_PER_SLOT",
    ),
    idle("--swa-full", "the cache holds the whole context", env="LLAMA_ARG_SWA_FULL"),
    forbidden("--context-shift", "a request ends where its context is full", env="LLAMA_ARG_CONTEXT_SHIFT"),
    unused(
        "-fa --flash-attn",
        "attention is always computed so",
        read=TRUTH_OR_AUTO,
        bare="on",
        env="LLAMA_ARG_FLASH_ATTN",
    ),
    flag(
        "-ctk --cache-type-k",
        "cache_type_k",
        cache_type,
        "Of the cached keys: f32, f16, bf16 or q8_0; for other types the model's own is taken.",
        "TYPE",
        remarks=NO_SUCH_CACHE,
        env="LLAMA_ARG_CACHE_TYPE_K",
    ),
    flag(
        "-ctv --cache-type-v",
        "cache_type_v",
        cache_type,
        "Of the cached values: the same. On a GPU both have one type.",
        "TYPE",
        remarks=NO_SUCH_CACHE,
        env="LLAMA_ARG_CACHE_TYPE_V",
    ),
    unused("-dt --defrag-thold", "the cache has pages", env="LLAMA_ARG_DEFRAG_THOLD"),
    idle("-kvo --kv-offload", "each layer's KV cache is where the layer is", off="-nkvo", env="LLAMA_ARG_KV_OFFLOAD"),
    idle("--perf", "see /metrics", env="LLAMA_ARG_PERF"),
    idle("--warmup", "nothing needs warming up"),
    # Scaling
    refused("--rope-scaling", NO_ROPE, "", env="LLAMA_ARG_ROPE_SCALING_TYPE"),
    *[
        refused(name, NO_ROPE, *neutral, env=f"LLAMA_ARG_{name[2:].replace('-', '_').upper()}")
        for name, neutral in {
            "--rope-scale": ("1", "1.0"),
            "--rope-freq-base": ("0",),
            "--rope-freq-scale": ("1", "1.0"),
            "--yarn-orig-ctx": ("0",),
            "--yarn-ext-factor": ("-1", "-1.0"),
            "--yarn-attn-factor": ("-1", "-1.0"),
            "--yarn-beta-slow": ("-1", "-1.0"),
            "--yarn-beta-fast": ("-1", "-1.0"),
        }.items()
    ],
    # Memory and devices
    flag("--mlock", "mlock", None, "Keep weights and KV cache from being swapped out.", env="LLAMA_ARG_MLOCK"),
    idle("--mmap", "files are mapped while they are loaded, and weights are then kept apart", env="LLAMA_ARG_MMAP"),
    idle("-dio --direct-io", "files are mapped while they are loaded", env="LLAMA_ARG_DIO"),
    flag("-lm --load-mode", "mlock", load_mode, "Locks the memory where `mlock` is in it.", env="LLAMA_ARG_LOAD_MODE"),
    unused("-lzm --lazy-mode", "weights are kept in memory", env="LLAMA_ARG_LAZY_MODE"),
    flag(
        "-ngl --gpu-layers --n-gpu-layers",
        "gpu_layers",
        or_default(whole(0), "auto", "all", "-1"),
        "Compute so many of the last layers on the GPU; auto and all are all of them, 0 is the CPU alone.",
        env="LLAMA_ARG_N_GPU_LAYERS",
    ),
    flag("-dev --device", "device", device, "none is the CPU, CUDA0 the GPU.", "DEVICE", env="LLAMA_ARG_DEVICE"),
    unused("-ot --override-tensor", PLACED, env="LLAMA_ARG_OVERRIDE_TENSOR"),
    idle("-cmoe --cpu-moe", PLACED, env="LLAMA_ARG_CPU_MOE"),
    unused("-ncmoe --n-cpu-moe", PLACED, env="LLAMA_ARG_N_CPU_MOE"),
    unused("-ncffn --n-cpu-ffn", PLACED, env="LLAMA_ARG_N_CPU_FFN"),
    unused("-sm --split-mode", ONE_GPU, env="LLAMA_ARG_SPLIT_MODE"),
    unused("-ts --tensor-split", ONE_GPU, env="LLAMA_ARG_TENSOR_SPLIT"),
    unused("-mg --main-gpu", ONE_GPU, env="LLAMA_ARG_MAIN_GPU"),
    unused("-fit --fit", "memory is sized to need", read=truth, bare="on", env="LLAMA_ARG_FIT"),
    unused("-fitt --fit-target", "see --gpu-memory-utilization", env="LLAMA_ARG_FIT_TARGET"),
    unused("-fitc --fit-ctx", "memory is sized to need", env="LLAMA_ARG_FIT_CTX"),
    idle("--repack", "weights are always repacked", off="-nr", env="LLAMA_ARG_REPACK"),
    idle("--no-host", PLACED, env="LLAMA_ARG_NO_HOST"),
    idle("--op-offload", PLACED),
    refused("--rpc", "one machine computes the model", "", env="LLAMA_ARG_RPC"),
    # Adapters
    *[
        refused(name, NO_ADAPTERS, "")
        for name in ("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled")
    ],
    unused("--control-vector-layer-range", NO_ADAPTERS),
    idle("--lora-init-without-apply", NO_ADAPTERS),
    # Media
    refused("-mm --mmproj", NO_MEDIA, "", env="LLAMA_ARG_MMPROJ"),
    refused("-mmu --mmproj-url", NO_MEDIA, "", env="LLAMA_ARG_MMPROJ_URL"),
    idle("--mmproj-auto", NO_MEDIA, off="--no-mmproj", env="LLAMA_ARG_MMPROJ_AUTO"),
    idle("--mmproj-offload", NO_MEDIA, env="LLAMA_ARG_MMPROJ_OFFLOAD"),
    *[
        unused(name, NO_MEDIA, env=f"LLAMA_ARG_{name[2:].replace('-', '_').upper()}")
        for name in (
            *("--image-min-tokens", "--image-max-tokens", "--mtmd-batch-max-tokens", "--video-fps"),
            *("--video-timestamp-interval", "--video-ffmpeg-dir", "--media-path"),
        )
    ],
    # Sampling and text
    *SAMPLING,
    refused("--grammar", NO_GRAMMAR, ""),
    refused("--grammar-file", NO_GRAMMAR, ""),
    refused("-j --json-schema", NO_GRAMMAR, ""),
    refused("-jf --json-schema-file", NO_GRAMMAR, ""),
    idle("-bs --backend-sampling", "sampling is native", env="LLAMA_ARG_BACKEND_SAMPLING"),
    forbidden("-sp --special", "special tokens have no text"),
    idle("-e --escape", "only prompts of command lines have escapes"),
    # Server
    flag("--host", "hosts", str, "Address, or PATH.sock.", "HOST", several=True, env="LLAMA_ARG_HOST"),
    flag("--port", "port", whole(0, 65535), "Port to serve at.", env="LLAMA_ARG_PORT"),
    flag("--reuse-port", "reuse_port", None, "Let others listen at the port too.", env="LLAMA_ARG_REUSE_PORT"),
    refused("--path", "static files are not served", "", env="LLAMA_ARG_STATIC_PATH"),
    flag(
        "--api-prefix",
        "api_prefix",
        url_path,
        "Path under which everything is served.",
        "PATH",
        env="LLAMA_ARG_API_PREFIX",
    ),
    flag(
        "--cors-origins",
        "allowed_origins",
        str,
        "Let pages of these origins call.",
        "ORIGINS",
        several=True,
        env="LLAMA_ARG_CORS_ORIGINS",
    ),
    flag(
        "--cors-methods",
        "allowed_methods",
        str,
        "Methods that they may use.",
        "METHODS",
        several=True,
        env="LLAMA_ARG_CORS_METHODS",
    ),
    flag(
        "--cors-headers",
        "allowed_headers",
        str,
        "Headers that they may send.",
        "HEADERS",
        several=True,
        env="LLAMA_ARG_CORS_HEADERS",
    ),
    flag(
        "--cors-credentials",
        "allow_credentials",
        None,
        "Let them send credentials.",
        env="LLAMA_ARG_CORS_CREDENTIALS",
    ),
    flag(
        "--api-key",
        "api_keys",
        str,
        "Refuse requests without one of these keys.",
        "KEYS",
        several=True,
        env="LLAMA_API_KEY",
    ),
    flag("--api-key-file", "api_key_file", str, "A file with keys, one a line.", "FILE", env="LLAMA_ARG_API_KEY_FILE"),
    flag("--ssl-key-file", "ssl_keyfile", str, "Key of the certificate.", "FILE", env="LLAMA_ARG_SSL_KEY_FILE"),
    flag("--ssl-cert-file", "ssl_certfile", str, "Serve HTTPS with it.", "FILE", env="LLAMA_ARG_SSL_CERT_FILE"),
    unused("-to --timeout", "an answer may take as long as --request-timeout allows", env="LLAMA_ARG_TIMEOUT"),
    unused("--sse-ping-interval", "streams send a comment when they are quiet", env="LLAMA_ARG_SSE_PING_INTERVAL"),
    idle("--cache-prompt", "requests say it: `cache_prompt`", env="LLAMA_ARG_CACHE_PROMPT"),
    unused("--cache-reuse", NO_CACHE_MODEL, env="LLAMA_ARG_CACHE_REUSE"),
    flag("--metrics", "metrics_endpoint", None, "Let /metrics answer.", env="LLAMA_ARG_ENDPOINT_METRICS"),
    flag("--props", "props_endpoint", None, "Let POST /props answer.", env="LLAMA_ARG_ENDPOINT_PROPS"),
    flag("--slots", "slots_endpoint", None, "Let /slots answer.", env="LLAMA_ARG_ENDPOINT_SLOTS"),
    flag("--slot-save-path", "slot_save_path", folder, "Folder where slots are saved.", "DIR"),
    refused("--pooling", NO_EMBEDDINGS, "none", env="LLAMA_ARG_POOLING"),
    forbidden("--embedding --embeddings", NO_EMBEDDINGS, env="LLAMA_ARG_EMBEDDINGS"),
    forbidden("--rerank --reranking", NO_EMBEDDINGS, env="LLAMA_ARG_RERANKING"),
    unused("--embd-normalize", NO_EMBEDDINGS),
    flag("--spm-infill", "spm_infill", None, "Put the suffix before the prefix in /infill."),
    unused("-sps --slot-prompt-similarity", NO_CACHE_MODEL),
    unused("-cram --cache-ram", NO_CACHE_MODEL, env="LLAMA_ARG_CACHE_RAM"),
    unused("-ctxcp --ctx-checkpoints --swa-checkpoints", NO_CACHE_MODEL, env="LLAMA_ARG_CTX_CHECKPOINTS"),
    unused("-cms --checkpoint-min-step", NO_CACHE_MODEL, env="LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT"),
    idle("--cache-idle-slots", NO_CACHE_MODEL, env="LLAMA_ARG_CACHE_IDLE_SLOTS"),
    unused("--sleep-idle-seconds", "an idle server takes no processor time"),
    unused("-lcs --lookup-cache-static", NO_DRAFT),
    unused("-lcd --lookup-cache-dynamic", NO_DRAFT),
    # Page and tools
    idle("--ui --webui", "the page at / is always there", env="LLAMA_ARG_UI"),
    unused("--ui-config --webui-config", "the page has no settings", env="LLAMA_ARG_UI_CONFIG"),
    unused("--ui-config-file --webui-config-file", "the page has no settings", env="LLAMA_ARG_UI_CONFIG_FILE"),
    forbidden("--ui-mcp-proxy --webui-mcp-proxy", NO_TOOLS, env="LLAMA_ARG_UI_MCP_PROXY"),
    refused("--tools", NO_TOOLS, "", env="LLAMA_ARG_TOOLS"),
    unused("--tools-runtime", NO_TOOLS, env="LLAMA_ARG_TOOLS_RUNTIME"),
    refused("--mcp-servers-config", NO_TOOLS, "", env="LLAMA_ARG_MCP_SERVERS_CONFIG"),
    refused("--mcp-servers-json", NO_TOOLS, "", env="LLAMA_ARG_MCP_SERVERS_JSON"),
    forbidden("-ag --agent", NO_TOOLS, off="-no-ag", env="LLAMA_ARG_AGENT"),
    refused("--models-dir", ONE_MODEL, "", env="LLAMA_ARG_MODELS_DIR"),
    refused("--models-preset", ONE_MODEL, "", env="LLAMA_ARG_MODELS_PRESET"),
    unused("--models-max", ONE_MODEL, env="LLAMA_ARG_MODELS_MAX"),
    idle("--models-autoload", ONE_MODEL, env="LLAMA_ARG_MODELS_AUTOLOAD"),
    # Chat
    forbidden("--jinja", "chat templates are always Jinja", "true", env="LLAMA_ARG_JINJA"),
    flag(
        "--chat-template",
        "chat_template",
        str,
        "A Jinja template, or a file with one; not the name of a built-in one.",
        "TEMPLATE",
        env="LLAMA_ARG_CHAT_TEMPLATE",
    ),
    flag(
        "--chat-template-file",
        "chat_template",
        file_text,
        "A file with a Jinja template.",
        "FILE",
        env="LLAMA_ARG_CHAT_TEMPLATE_FILE",
    ),
    flag(
        "--chat-template-kwargs",
        "default_chat_template_kwargs",
        json_object,
        "Variables for the template, where a request does not give them.",
        "JSON",
        env="LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
    ),
    refused("--reasoning-format", "thoughts are left in the text", "none", "auto", env="LLAMA_ARG_THINK"),
    refused("-rea --reasoning", "thoughts are left in the text", "auto", env="LLAMA_ARG_REASONING"),
    refused("--reasoning-effort", "give it with a request", "", env="LLAMA_ARG_REASONING_EFFORT"),
    refused("--reasoning-budget", "thoughts have no budget", "-1", env="LLAMA_ARG_THINK_BUDGET"),
    unused("--reasoning-budget-message", "thoughts have no budget", env="LLAMA_ARG_THINK_BUDGET_MESSAGE"),
    idle("--reasoning-preserve", "the chat template says it", env="LLAMA_ARG_REASONING_PRESERVE"),
    idle("--skip-chat-parsing", "the text is never parsed", env="LLAMA_ARG_SKIP_CHAT_PARSING"),
    idle("--prefill-assistant", "requests say it", env="LLAMA_ARG_PREFILL_ASSISTANT"),
    # Speculation
    *[
        unused(names, NO_DRAFT)
        for names in (
            *("--spec-type", "--spec-draft-hf -hfd -hfrd --hf-repo-draft", "--spec-draft-threads -td --threads-draft"),
            *("--spec-draft-threads-batch -tbd --threads-batch-draft", "--spec-draft-model -md --model-draft"),
            *("--spec-draft-cpu-mask -Cd --cpu-mask-draft", "--spec-draft-cpu-range -Crd --cpu-range-draft"),
            *("--spec-draft-cpu-strict --cpu-strict-draft", "--spec-draft-prio --prio-draft"),
            *("--spec-draft-poll --poll-draft", "--spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft"),
            *("--spec-draft-cpu-strict-batch --cpu-strict-batch-draft", "--spec-draft-prio-batch --prio-batch-draft"),
            *("--spec-draft-poll-batch --poll-batch-draft", "--spec-draft-type-k -ctkd --cache-type-k-draft"),
            *("--spec-draft-type-v -ctvd --cache-type-v-draft", "--spec-draft-override-tensor -otd"),
            *("--spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft", "--spec-synth-len"),
            *("--spec-draft-n-max --draft --draft-n --draft-max", "--spec-draft-n-min --draft-min --draft-n-min"),
            *("--spec-synth-rates", "--spec-draft-p-split --draft-p-split", "--spec-draft-p-min --draft-p-min"),
            *("--spec-draft-device -devd --device-draft", "--spec-draft-ngl -ngld --gpu-layers-draft"),
            *(f"--spec-ngram-mod-n-{end}" for end in ("match", "min", "max")),
            *("--spec-ngram-size-n", "--spec-ngram-size-m", "--spec-ngram-min-hits"),
            *(
                f"--spec-ngram-{kind}-{end}"
                for kind in ("simple", "map-k", "map-k4v")
                for end in ("size-n", "size-m", "min-hits")
            ),
        )
    ],
    *[
        idle(names, NO_DRAFT)
        for names in ("--spec-draft-cpu-moe -cmoed --cpu-moe-draft", "--spec-draft-backend-sampling", "--spec-default")
    ],
    # Presets
    *[
        forbidden(name, NO_PRESET)
        for name in (
            *("--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default", "--fim-qwen-7b-default"),
            *("--fim-qwen-7b-spec", "--fim-qwen-14b-spec", "--fim-qwen-30b-default", "--gpt-oss-20b-default"),
            *("--gpt-oss-120b-default", "--vision-gemma-4b-default", "--vision-gemma-12b-default"),
        )
    ],
    # Questions
    forbidden("--list-devices", "see `trivet inspect --system`"),
    forbidden("-cl --cache-list", "models are in the cache of the Hugging Face Hub: see `hf cache`"),
    forbidden("--completion-bash", "there is no completion of flags"),
    # Log
    flag("-v --verbose --log-verbose", "log_level", None, "Log everything.", on="DEBUG"),
    flag(
        "-lv --verbosity --log-verbosity",
        "log_level",
        verbosity,
        "0 to 4: none to debug.",
        env="LLAMA_ARG_LOG_VERBOSITY",
    ),
    flag("--log-disable", "log_level", None, "Log only what is fatal.", on="CRITICAL"),
    flag("--log-file", "log_file", str, "Log there.", "FILE", env="LLAMA_ARG_LOG_FILE"),
    flag("--log-jsonl", "log_format", None, "Log an object for each line.", on="json", env="LLAMA_ARG_LOG_JSONL"),
    refused("--log-prompts-dir", "prompts are never logged", ""),
    unused("--log-colors", "log lines have no colours", read=TRUTH_OR_AUTO, bare="on", env="LLAMA_ARG_LOG_COLORS"),
    idle("--log-prefix", "log lines always have one", env="LLAMA_ARG_LOG_PREFIX"),
    idle("--log-timestamps", "log lines always have one", env="LLAMA_ARG_LOG_TIMESTAMPS"),
]
