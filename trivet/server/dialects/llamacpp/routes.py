"""The routes of llama.cpp's server."""

from __future__ import annotations

from trivet.server.dialects.llamacpp.adapters import list_adapters, scale_adapters
from trivet.server.dialects.llamacpp.completions import chat_completions, completion, infill, text_completions
from trivet.server.dialects.llamacpp.messages import count_tokens, messages
from trivet.server.dialects.llamacpp.models import models
from trivet.server.dialects.llamacpp.props import change_props, props
from trivet.server.dialects.llamacpp.responses import create_response
from trivet.server.dialects.llamacpp.schemas import (
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    InfillBody,
    MessagesBody,
    SlotBody,
    TextBody,
    TokenizeBody,
)
from trivet.server.dialects.llamacpp.slot_routes import act_on_slot, list_slots
from trivet.server.dialects.llamacpp.template import apply_template, input_tokens
from trivet.server.dialects.llamacpp.tokenize import detokenize, tokenize
from trivet.server.dialects.llamacpp.unsupported import UNSUPPORTED
from trivet.server.dialects.openai.responses.schemas import ResponsesBody
from trivet.server.endpoint import Operation
from trivet.server.probes import metrics

OWN_FIELDS = frozenset(
    [
        *("n_predict", "n_cmpl", "n_indent", "n_keep", "n_discard", "n_cache_reuse", "t_max_predict_ms"),
        *("cache_prompt", "id_slot", "return_tokens", "return_progress", "timings_per_token", "response_fields"),
        *("n_probs", "post_sampling_probs", "samplers", "min_keep", "backend_sampling", "sse_ping_interval"),
        *("dynatemp_range", "dynatemp_exponent", "top_n_sigma", "xtc_probability", "xtc_threshold"),
        *("repeat_last_n", "repeat_penalty", "dry_multiplier", "dry_base", "dry_allowed_length"),
        *("dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta"),
        *("adaptive_target", "adaptive_decay", "json_schema", "grammar_lazy", "grammar_triggers", "lora"),
        *("reasoning_format", "reasoning_control", "reasoning_budget_tokens", "thinking_budget_tokens"),
    ]
)
"""Fields that only requests written for llama.cpp have: they tell its requests of the OpenAI API from others."""

OPERATIONS = [
    Operation("/completion", completion, body=CompletionBody, generates=True),
    Operation("/completions", completion, body=CompletionBody, generates=True),
    Operation("/infill", infill, body=InfillBody, generates=True),
    Operation("/v1/completions", text_completions, body=TextBody, generates=True, keys=OWN_FIELDS),
    Operation("/chat/completions", chat_completions, body=ChatBody, generates=True),
    Operation("/v1/chat/completions", chat_completions, body=ChatBody, generates=True, keys=OWN_FIELDS),
    Operation("/chat/completions/input_tokens", input_tokens, body=ChatBody),
    Operation("/v1/chat/completions/input_tokens", input_tokens, body=ChatBody),
    Operation("/v1/responses", create_response, body=ResponsesBody, generates=True, pinned=True),
    Operation("/responses", create_response, body=ResponsesBody, generates=True, pinned=True),
    Operation("/v1/messages", messages, body=MessagesBody, generates=True, pinned=True),
    Operation("/v1/messages/count_tokens", count_tokens, body=CountTokensBody, pinned=True),
    Operation("/apply-template", apply_template, body=ChatBody),
    Operation("/tokenize", tokenize, body=TokenizeBody, keys=frozenset({"content"})),
    Operation("/detokenize", detokenize, body=DetokenizeBody),
    Operation("/models", models, "GET"),
    Operation("/v1/models", models, "GET"),
    # Of the peers it alone asks for a key here; elsewhere the route is that of `probes`, open to all.
    Operation("/metrics", metrics, "GET", pinned=True),
    Operation("/props", props, "GET"),
    Operation("/props", change_props),
    Operation("/slots", list_slots, "GET"),
    Operation("/slots/{id}", act_on_slot, body=SlotBody),
    Operation("/lora-adapters", list_adapters, "GET"),
    Operation("/lora-adapters", scale_adapters),
    *UNSUPPORTED,
]
