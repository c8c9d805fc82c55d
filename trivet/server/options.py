"""How the HTTP application is set up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits are those of the dialect whose name they carry, with its defaults.

    api_keys: any of them opens the API; empty leaves it open to everybody.
    allowed_origins: pages of these origins may call from a browser ("*" = all); empty turns CORS off.
    payload_limit: bytes of a request body.
    max_logprobs: most of `logprobs` and `top_logprobs` (OpenAI).
    max_stop_strings: most stop strings of one request (OpenAI and TGI).
    max_prompts: most prompts of one completions request (OpenAI).
    max_best_of, max_top_n_tokens: of one request (TGI).
    max_input_tokens: most tokens of a prompt; None is all that leave room for one more (TGI).
    max_client_batch_size: most prompts of one completions request (TGI).
    prompt_tokens_details: report cached prompt tokens in `usage` (OpenAI).
    log_requests: a line for each request, without its text.
    dialect: "openai", "tgi", "llamacpp" or "anthropic": whose every path is where several have the same one; None
        tells them apart by the body's keys.
    """

    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    payload_limit: int = 16 * 2**20
    max_logprobs: int = 20
    max_stop_strings: int = 4
    max_prompts: int = 1024
    max_best_of: int = 2
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None
    max_client_batch_size: int = 4
    prompt_tokens_details: bool = False
    log_requests: bool = False
    dialect: str | None = None
