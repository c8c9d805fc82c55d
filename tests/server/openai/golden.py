"""What goes over the wire, to the letter, for requests to the fake engine; see `plain` for what is left out."""

from __future__ import annotations

import re

VOLATILE = {r'-[0-9a-f]{32}"': '-ID"', r'"created":\d+': '"created":1', r'"trivet-[^"]+"': '"FP"'}


def plain(text: str) -> str:
    """The text of an answer without what differs each time."""
    for pattern, name in VOLATILE.items():
        text = re.sub(pattern, name, text)
    return text


def stream(*chunks: str) -> str:
    return "".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]"))


CHAT = (
    '{"id":"chatcmpl-ID","object":"chat.completion","created":1,"model":"fake","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"Lil","refusal":null,"annotations":null,"audio":null,"function_call":null,'
    '"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,'
    '"routed_experts":null}],"service_tier":null,"system_fingerprint":"FP","usage":{"prompt_tokens":20,'
    '"total_tokens":23,"completion_tokens":3,"prompt_tokens_details":null,"completion_tokens_details":null},'
    '"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,'
    '"ec_transfer_params":null,"metrics":null}'
)

CHUNK = '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":1,"model":"fake","choices":['
ROLE = '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
FIRST = '{"index":0,"delta":{"content":"L"},"logprobs":null,"finish_reason":null,"token_ids":null}'
LAST = (
    '{"index":0,"delta":{"content":"i"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}'
)
CHAT_STREAM = stream(
    CHUNK + ROLE + '],"prompt_token_ids":null,"prompt_text":null}',
    CHUNK + FIRST + "]}",
    CHUNK + LAST + '],"system_fingerprint":"FP"}',
)
USAGE = '],"usage":{"prompt_tokens":20,"total_tokens":22,"completion_tokens":2},"system_fingerprint":"FP"}'
CHAT_STREAM_USAGE = stream(
    CHUNK + ROLE + '],"prompt_token_ids":null,"prompt_text":null}',
    CHUNK + FIRST + "]}",
    CHUNK + LAST + "]}",
    CHUNK + USAGE,
)


def _so_far(generated: int) -> str:
    counts = f'"prompt_tokens":20,"total_tokens":{20 + generated},"completion_tokens":{generated}'
    return f'],"usage":{{{counts},"completion_tokens_details":null}}'


CHAT_STREAM_CONTINUOUS = stream(
    CHUNK + ROLE + _so_far(0) + ',"prompt_token_ids":null,"prompt_text":null}',
    CHUNK + FIRST + _so_far(1) + "}",
    CHUNK + LAST + _so_far(2) + "}",
    CHUNK + USAGE,
)

COMPLETION = (
    '{"id":"cmpl-ID","object":"text_completion","created":1,"model":"fake","choices":[{"index":0,"text":"Lil",'
    '"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,'
    '"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"FP","usage":'
    '{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3,"prompt_tokens_details":null,'
    '"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
)

TEXT_CHUNK = '{"id":"cmpl-ID","object":"text_completion","created":1,"model":"fake","choices":['
TEXT_FIRST = (
    '{"index":0,"text":"L","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
    '"token_ids":null}'
)
TEXT_LAST = (
    '{"index":0,"text":"i","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,'
    '"token_ids":null}'
)
COMPLETION_STREAM = stream(TEXT_CHUNK + TEXT_FIRST + "]}", TEXT_CHUNK + TEXT_LAST + '],"system_fingerprint":"FP"}')
TEXT_USAGE = '],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2},"system_fingerprint":"FP"}'
COMPLETION_STREAM_USAGE = stream(TEXT_CHUNK + TEXT_FIRST + "]}", TEXT_CHUNK + TEXT_LAST + "]}", TEXT_CHUNK + TEXT_USAGE)
COMPLETION_STREAM_CONTINUOUS = stream(
    TEXT_CHUNK + TEXT_FIRST + '],"usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1}}',
    TEXT_CHUNK + TEXT_LAST + '],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}',
    TEXT_CHUNK + TEXT_USAGE,
)

ERROR = (
    '{"error":{"message":"The model `x` does not exist. Valid aliases: fake.","type":"NotFoundError","param":"model",'
    '"code":404}}'
)
CACHED = '"prompt_tokens_details":{"cached_tokens":1,"created_cache_tokens":null,"multimodal_tokens":null}'
CACHED_IN_STREAM = '"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}},'
