"""The fields of vLLM's `EngineArgs` that have no effect here."""
# ruff: noqa: RUF009 - `unused` and `only` make fields, no shared defaults

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from trivet.errors import RequestError

NO = "not supported"
NO_CODE = "no code that comes with a model is run"
NO_ALLOCATOR = "the cache takes its memory at start, once"
NO_CHOICE = "kernels are chosen by what the device can do"
GRAPHS = "batches up to max_num_seqs are CUDA graphs when they are first needed; see enforce_eager"
PLACES = "layers are kept on the CPU by gpu_layers"
NO_MAMBA = "no model with Mamba layers is supported"
MAPPED = "weights are mapped from their file"
ONE = "there is one device, of one machine"
TEXT = "models read and write text only"


def unused(default: Any, why: str) -> Any:
    """A field that may have any value: it has nothing to change, and `why` says so."""
    return _field(default, why, None)


def only(default: Any, why: str, *also: Any) -> Any:
    """A field that may have only values that ask for nothing: its default, `also`, None or an empty container."""
    return _field(default, why, also)


def _field(default: Any, why: str, also: tuple[Any, ...] | None) -> Any:
    metadata = {"why": why, "also": also}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class VllmArgs:
    """The base of `EngineArgs`. Raises RequestError for a value that asks for what there is not."""

    # The model.
    trust_remote_code: bool = unused(False, NO_CODE)
    code_revision: Any = unused(None, NO_CODE)
    runner: str = only("auto", "models generate text", "generate")
    convert: str = only("auto", "models generate text", "none")
    tokenizer_mode: str = only("auto", "the model's tokenizer is used", "hf")
    skip_tokenizer_init: bool = only(False, "the tokenizer is always loaded")
    tokenizer_revision: Any = only(None, "a tokenizer comes with its model")
    config_format: str = only("auto", "the file says it", "hf")
    model_impl: str = only("auto", "the implementation is Trivet's", "vllm")
    quantization: Any = only(None, "weights are used in the format that they have", "gguf")
    quantization_config: Any = only(None, "weights are used in the format that they have")
    allow_deprecated_quantization: bool = unused(False, "weights are used in the format that they have")
    model_weights: str = only("", NO)
    hf_config_path: Any = only(None, NO)
    hf_overrides: Any = only(dict, NO)
    model_class_overrides: Any = only(dict, NO)
    enable_prompt_embeds: bool = only(False, NO)
    disable_sliding_window: bool = only(False, NO)
    pooler_config: Any = only(None, NO)
    logits_processors: Any = only(None, NO)
    io_processor_plugin: Any = only(None, NO)
    use_fp64_gumbel: bool = only(False, NO)
    enable_trace_replay: bool = only(False, NO)
    enable_return_routed_experts: bool = only(False, NO)
    return_sampling_mask: bool = only(False, NO)
    tokens_only: bool = only(False, NO)
    additional_config: Any = only(dict, NO)
    renderer_num_workers: int = unused(1, "long prompts are encoded in threads, as many as it takes")
    enable_sleep_mode: bool = only(False, NO)
    sleep_mode_offload_cudagraph: bool = only(False, NO)
    sleep_preserve_parameter_names: Any = only(list, NO)
    enable_cumem_allocator: bool = unused(False, NO_ALLOCATOR)
    enable_nccl_comm_suspend: bool = only(False, NO)
    # Loading.
    load_format: str = only("auto", "the file says it", "hf", "safetensors", "gguf")
    safetensors_load_strategy: Any = unused(None, MAPPED)
    safetensors_prefetch_num_threads: int = unused(8, MAPPED)
    safetensors_prefetch_block_size: int = unused(16 * 2**20, MAPPED)
    model_loader_extra_config: Any = only(dict, NO)
    ignore_patterns: Any = unused(list, "only what is needed is downloaded")
    use_tqdm_on_load: bool = unused(True, "loading shows no bar")
    pt_load_map_location: str = unused("cpu", MAPPED)
    # The cache.
    prefix_caching_hash_algo: str = unused("sha256", "the hash is Trivet's own")
    prefix_cache_retention_interval: int = only(0, NO)
    prefix_match_unit: Any = only(None, NO)
    kv_cache_dtype_skip_layers: Any = only(list, NO)
    kv_sharing_fast_prefill: bool = only(False, NO)
    swa_bounded_replay: bool = unused(True, NO_ALLOCATOR)
    kv_offloading_size: Any = only(None, NO)
    kv_offloading_backend: str = unused("native", "there is no offloading")
    mamba_cache_dtype: str = unused("auto", NO_MAMBA)
    mamba_ssm_cache_dtype: str = unused("auto", NO_MAMBA)
    mamba_block_size: Any = unused(None, NO_MAMBA)
    mamba_cache_mode: str = unused("none", NO_MAMBA)
    enable_mamba_shared_prefix_checkpoint: bool = unused(False, NO_MAMBA)
    replayssm_buffer_len: int = unused(16, NO_MAMBA)
    use_replayssm: bool = unused(False, NO_MAMBA)
    mamba_backend: str = unused("triton", NO_MAMBA)
    mamba_ssu_algorithm: Any = unused(None, NO_MAMBA)
    enable_mamba_cache_stochastic_rounding: bool = unused(False, NO_MAMBA)
    mamba_cache_philox_rounds: int = unused(0, NO_MAMBA)
    mamba_config: Any = unused(dict, NO_MAMBA)
    # Weights beside the GPU.
    offload_backend: str = unused("auto", PLACES)
    cpu_offload_gb: int = unused(0, PLACES)
    cpu_offload_params: Any = unused(set, PLACES)
    offload_group_size: int = unused(0, PLACES)
    offload_num_in_group: int = unused(1, PLACES)
    offload_prefetch_step: int = unused(1, PLACES)
    offload_params: Any = unused(set, PLACES)
    # Several devices.
    distributed_executor_backend: Any = only(None, ONE, "uni", "mp")
    pipeline_parallel_size: int = only(1, ONE)
    tensor_parallel_size: int = only(1, ONE)
    prefill_context_parallel_size: int = only(1, ONE)
    decode_context_parallel_size: int = only(1, ONE)
    data_parallel_size: int = only(1, ONE)
    data_parallel_rank: Any = only(None, ONE)
    data_parallel_start_rank: Any = only(None, ONE)
    data_parallel_size_local: Any = only(None, ONE)
    data_parallel_hybrid_lb: bool = only(False, ONE)
    data_parallel_external_lb: bool = only(False, ONE)
    data_parallel_multi_port_external_lb: bool = only(False, ONE)
    nnodes: int = only(1, ONE)
    node_rank: int = only(0, ONE)
    device_ids: Any = only(None, ONE)
    enable_expert_parallel: bool = only(False, ONE)
    enable_elastic_ep: bool = only(False, ONE)
    enable_eplb: bool = only(False, ONE)
    enable_dbo: bool = only(False, ONE)
    ubatch_size: int = only(0, ONE)
    enable_hc_sp: bool = only(False, ONE)
    numa_bind: bool = only(False, ONE)
    numa_bind_nodes: Any = only(None, ONE)
    numa_bind_cpus: Any = only(None, ONE)
    fault_tolerance_config: Any = only(dict, ONE)
    enable_fault_tolerance: bool = only(False, ONE)
    worker_extension_cls: str = only("", ONE)
    worker_cls: str = only("auto", ONE)
    master_addr: str = unused("127.0.0.1", ONE)
    master_port: int = unused(29501, ONE)
    distributed_timeout_seconds: Any = unused(None, ONE)
    cpu_distributed_timeout_seconds: Any = unused(None, ONE)
    data_parallel_address: Any = unused(None, ONE)
    data_parallel_rpc_port: Any = unused(None, ONE)
    data_parallel_backend: str = unused("mp", ONE)
    dcp_comm_backend: Any = unused(None, ONE)
    dcp_q_replicate: Any = unused(None, ONE)
    dcp_kv_cache_interleave_size: int = unused(1, ONE)
    cp_kv_cache_interleave_size: Any = unused(None, ONE)
    enable_batch_sharded_sampling: Any = unused(None, ONE)
    enable_ep_weight_filter: bool = unused(False, ONE)
    all2all_backend: str = unused("allgather_reducescatter", ONE)
    elastic_ep_max_dp_size: Any = unused(None, ONE)
    dbo_decode_token_threshold: int = unused(32, ONE)
    dbo_prefill_token_threshold: int = unused(512, ONE)
    dp_sync_interval: int = unused(16, ONE)
    disable_nccl_for_dp_synchronization: Any = unused(None, ONE)
    eplb_config: Any = unused(dict, ONE)
    expert_placement_strategy: str = unused("linear", ONE)
    max_parallel_loading_workers: Any = unused(None, ONE)
    disable_custom_all_reduce: bool = unused(False, ONE)
    enable_shm_tensor_arena: bool = unused(False, ONE)
    ray_workers_use_nsight: bool = unused(False, ONE)
    # Kernels and graphs.
    compilation_config: Any = unused(dict, NO_CHOICE)
    optimization_level: int = unused(2, NO_CHOICE)
    cudagraph_capture_sizes: Any = unused(None, GRAPHS)
    max_cudagraph_capture_size: Any = unused(None, GRAPHS)
    attention_config: Any = unused(dict, NO_CHOICE)
    attention_backend: Any = unused(None, NO_CHOICE)
    kernel_config: Any = unused(dict, NO_CHOICE)
    enable_flashinfer_autotune: Any = unused(None, NO_CHOICE)
    ir_op_priority: Any = unused(dict, NO_CHOICE)
    moe_backend: str = unused("auto", NO_CHOICE)
    linear_backend: str = unused("auto", NO_CHOICE)
    sparse_indexer_topk_backend: str = unused("auto", NO_CHOICE)
    gdn_prefill_backend: Any = unused(None, NO_CHOICE)
    kda_prefill_backend: Any = unused(None, NO_CHOICE)
    kda_decode_backend: Any = unused(None, NO_CHOICE)
    disable_cascade_attn: Any = unused(None, NO_CHOICE)
    engram_config: Any = unused(None, NO_CHOICE)
    jit_monitor_mode: str = unused("warn", NO_CHOICE)
    jit_monitor_verbose: bool = unused(False, NO_CHOICE)
    # Scheduling.
    enable_chunked_prefill: Any = only(None, "prompts are computed in pieces where they are long", True)
    max_num_scheduled_tokens: Any = only(None, NO)
    long_prefill_token_threshold: int = only(0, NO)
    long_prefill_token_threshold_adaptive: bool = only(False, NO)
    max_num_active_seqs: Any = only(None, NO)
    watermark: float = only(0.0, NO)
    prefill_schedule_interval: int = only(1, NO)
    scheduler_cls: Any = only(None, NO)
    async_scheduling: Any = unused(None, "a step's cost between kernels is small")
    scheduler_reserve_full_isl: bool = unused(True, "a prompt starts when all of it has room")
    disable_hybrid_kv_cache_manager: Any = unused(None, "there is one kind of cache")
    disable_chunked_mm_input: bool = unused(False, TEXT)
    # LoRA.
    enable_lora: bool = only(False, NO)
    default_mm_loras: Any = only(None, NO)
    max_loras: int = unused(1, "there is no LoRA")
    max_lora_rank: int = unused(16, "there is no LoRA")
    fully_sharded_loras: bool = unused(False, "there is no LoRA")
    max_cpu_loras: Any = unused(None, "there is no LoRA")
    lora_dtype: str = unused("auto", "there is no LoRA")
    lora_target_modules: Any = unused(None, "there is no LoRA")
    enable_tower_connector_lora: bool = unused(False, "there is no LoRA")
    specialize_active_lora: bool = unused(False, "there is no LoRA")
    enable_mixed_moe_lora_format: bool = unused(False, "there is no LoRA")
    enable_moe_shared_loras: bool = unused(False, "there is no LoRA")
    max_lora_cls_labels: Any = unused(None, "there is no LoRA")
    # Images, audio and video.
    mm_encoder_only: bool = only(False, NO)
    enable_mm_embeds: bool = only(False, NO)
    allowed_local_media_path: str = unused("", TEXT)
    allowed_media_domains: Any = unused(None, TEXT)
    language_model_only: bool = unused(False, TEXT)
    limit_mm_per_prompt: Any = unused(dict, TEXT)
    interleave_mm_strings: bool = unused(False, TEXT)
    media_io_kwargs: Any = unused(dict, TEXT)
    mm_processor_kwargs: Any = unused(None, TEXT)
    mm_processor_cache_gb: int = unused(4, TEXT)
    mm_processor_cache_type: str = unused("lru", TEXT)
    mm_hasher_algorithm: str = unused("blake3", TEXT)
    mm_shm_cache_max_object_size_mb: int = unused(128, TEXT)
    mm_encoder_tp_mode: str = unused("weights", TEXT)
    mm_encoder_attn_backend: Any = unused(None, TEXT)
    mm_encoder_attn_dtype: Any = unused(None, TEXT)
    mm_encoder_fp8_scale_path: Any = unused(None, TEXT)
    mm_encoder_fp8_scale_save_path: Any = unused(None, TEXT)
    mm_encoder_fp8_scale_save_margin: float = unused(1.5, TEXT)
    skip_mm_profiling: bool = unused(False, TEXT)
    video_pruning_rate: Any = unused(None, TEXT)
    video_pruning_method: str = unused("evs", TEXT)
    mm_tensor_ipc: str = unused("direct_rpc", TEXT)
    mm_processor_device: str = unused("auto", TEXT)
    mm_ipc_gpu_memory_gb: int = unused(0, TEXT)
    mm_device_do_normalize: bool = unused(True, TEXT)
    enable_mm_processor_stats: bool = unused(False, TEXT)
    ec_manager_config: Any = unused(dict, TEXT)
    # Grammars, reasoning and speculation.
    structured_outputs_config: Any = unused(dict, "requests with a grammar are refused")
    reasoning_parser: str = only("", NO)
    reasoning_parser_plugin: Any = only(None, NO)
    reasoning_config: Any = only(None, NO)
    speculative_config: Any = only(None, NO)
    spec_method: Any = only(None, NO)
    spec_model: Any = only(None, NO)
    spec_tokens: Any = only(None, NO)
    watermark_config: Any = only(None, NO)
    diffusion_config: Any = only(None, NO)
    aux_output_config: Any = only(dict, NO)
    kv_transfer_config: Any = only(None, NO)
    kv_events_config: Any = only(None, NO)
    ec_transfer_config: Any = only(None, NO)
    weight_transfer_config: Any = only(None, NO)
    # Watching.
    disable_log_stats: bool = unused(False, "metrics are the server's; they are always there")
    aggregate_engine_logging: bool = unused(False, "metrics are the server's; they are always there")
    show_hidden_metrics_for_version: Any = unused(None, "metrics are the server's; they are always there")
    otlp_traces_endpoint: Any = only(None, NO)
    collect_detailed_traces: Any = only(None, NO)
    per_request_spec_decode_metrics: str = only("none", NO)
    kv_cache_metrics: bool = only(False, NO)
    custom_histogram_buckets: Any = only(None, NO)
    cudagraph_metrics: bool = only(False, NO)
    enable_layerwise_nvtx_tracing: bool = only(False, NO)
    enable_mfu_metrics: bool = only(False, NO)
    enable_logging_iteration_details: bool = only(False, NO)
    profiler_config: Any = only(dict, NO)
    logging_config: Any = only(None, NO)
    log_level: Any = only(None, NO)
    log_config_file: Any = only(None, NO)
    shutdown_timeout: int = only(0, NO)
    kv_cache_metrics_sample: float = unused(0.01, "there are no such metrics")
    fail_on_environ_validation: bool = unused(False, "vLLM's environment variables are not read")

    def __post_init__(self) -> None:
        for each in fields(VllmArgs):
            value = getattr(self, each.name)
            also = each.metadata["also"]
            if also is None or value in (None, each.default, *also) or value in ({}, [], set()):
                continue
            allowed = " or ".join(repr(v) for v in (each.default, *also) if isinstance(v, str | int | float)) or "None"
            raise RequestError(
                f"{each.name}={value!r} is not supported, only {allowed}: {each.metadata['why']}", each.name
            )
