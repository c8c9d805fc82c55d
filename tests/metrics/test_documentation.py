"""docs/metrics.md says what the table says, and the table what the peers have."""

from pathlib import Path

from trivet.metrics import table
from trivet.metrics.documentation import page, series

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
VLLM = """
num_requests_running num_requests_waiting num_requests_waiting_by_reason kv_cache_usage_perc engine_sleep_state
lora_requests_info cache_config_info num_requests_kv_fetch_by_stage prefix_cache_queries_total prefix_cache_hits_total
external_prefix_cache_queries_total external_prefix_cache_hits_total mm_cache_queries_total mm_cache_hits_total
num_preemptions_total prompt_tokens_total prompt_tokens_by_source_total prompt_tokens_cached_total
prompt_tokens_cached_by_source_total generation_tokens_total request_success_total admission_rejections_total
corrupted_requests_total spec_decode_num_drafts_total spec_decode_num_draft_tokens_total
spec_decode_num_accepted_tokens_total spec_decode_num_accepted_tokens_per_pos_total
tool_call_parser_invocations_total estimated_flops_per_gpu_total request_prompt_tokens request_generation_tokens
request_max_num_generation_tokens request_params_n request_params_max_tokens iteration_tokens_total
time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds
request_inference_time_seconds request_num_preemptions request_prefill_kv_computed_tokens kv_block_lifetime_seconds
kv_block_idle_before_evict_seconds kv_block_reuse_gap_seconds
"""
TGI = """
request_count request_success request_failure request_duration request_validation_duration request_queue_duration
request_inference_duration request_mean_time_per_token_duration request_generated_tokens request_input_length
request_max_new_tokens request_skipped_tokens batch_next_size batch_current_size batch_current_max_tokens queue_size
batch_inference_count batch_inference_success batch_inference_failure batch_inference_duration batch_forward_duration
batch_decode_duration batch_filter_duration batch_concat_duration batch_concat batch_max_total_tokens
batch_total_tokens
"""
LLAMACPP = """
prompt_tokens_total prompt_tokens_cached_total prompt_seconds_total tokens_predicted_total
tokens_predicted_seconds_total n_decode_total n_tokens_max spec_decode_num_draft_tokens_total
spec_decode_num_accepted_tokens_total spec_decode_num_drafts_total spec_decode_num_accepted_tokens_per_pos_total
prompt_tokens_seconds predicted_tokens_seconds requests_processing requests_deferred n_busy_slots_per_decode
"""
HTTP = """
requests_total request_duration_seconds request_duration_highr_seconds request_size_bytes response_size_bytes
"""


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m trivet.metrics.documentation > docs/metrics.md"


def test_every_name_of_the_peers_is_there_or_said_not_to_be():
    names = {
        prefix + name
        for prefix, listed in {"vllm:": VLLM, "tgi_": TGI, "llamacpp:": LLAMACPP, "http_": HTTP}.items()
        for name in listed.split()
    }
    there = [one.name for one in series()]
    assert len(there) == len(set(there))
    absent = {
        name for name in names - set(there) if name.startswith(tuple(key.removesuffix("…") for key in table.ABSENT))
    }
    assert names == set(there) | absent
