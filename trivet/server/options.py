"""How the HTTP application is set up, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits are those of the dialect whose name they carry, with its defaults.

    api_keys: any of them opens the API; empty leaves it open to everybody.
    allowed_origins: pages of these origins may call from a browser ("*" = all, "localhost" = those of this machine);
        empty turns CORS off. allowed_methods, allowed_headers, allow_credentials: what they may then send.
    payload_limit: bytes of a request body.
    request_timeout: seconds that an answer may take, the wait for its turn included; None or 0 is no limit. A request
        may have less, by the header X-Request-Timeout.
    max_logprobs: most of `logprobs` and `top_logprobs` (OpenAI).
    max_stop_strings: most stop strings of one request (OpenAI and TGI).
    max_prompts: most prompts of one completions request (OpenAI).
    max_best_of, max_top_n_tokens: of one request (TGI).
    max_input_tokens: most tokens of a prompt; None is all that leave room for one more (TGI).
    max_client_batch_size: most prompts of one completions request (TGI).
    prompt_tokens_details, request_metrics: report cached prompt tokens in `usage`, and times in `metrics` (OpenAI).
    force_include_usage: report `usage` in every chunk of every stream, and at its end (OpenAI).
    trust_request_chat_template: let requests bring their own chat template (OpenAI).
    tokens_as_ids: call tokens `token_id:N` in every request's logprobs (OpenAI).
    log_requests: a line for each request, without its text.
    otlp_traces_endpoint: where traces are sent; None sends none. otlp_service_name: what they call this server.
    dialect: "openai", "tgi", "llamacpp" or "anthropic": whose every path is where several have the same one; None
        tells them apart by the body's keys.
    metrics_endpoint, slots_endpoint, props_endpoint: whether `/metrics` and `/slots` answer, and `POST /props`.
    sampling_defaults: keywords of SamplingParams for what a request leaves out (llama.cpp: --temp, --top-k, …).
    n_predict: tokens to generate where a request does not say, and at most; -1 is no limit (llama.cpp: --predict).
    num_slots: how many slots there are (llama.cpp: --parallel); None is as many as sequences of one step.
    slot_save_path: the folder that slots are saved in and restored from; None refuses to (llama.cpp).
    spm_infill: put the suffix before the prefix in /infill (llama.cpp).
    """

    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("GET", "POST", "DELETE")
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    payload_limit: int = 16 * 2**20
    request_timeout: float | None = None
    max_logprobs: int = 20
    max_stop_strings: int = 4
    max_prompts: int = 1024
    max_best_of: int = 2
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None
    max_client_batch_size: int = 4
    prompt_tokens_details: bool = False
    request_metrics: bool = False
    force_include_usage: bool = False
    trust_request_chat_template: bool = True
    tokens_as_ids: bool = False
    log_requests: bool = False
    otlp_traces_endpoint: str | None = None
    otlp_service_name: str | None = None
    dialect: str | None = None
    metrics_endpoint: bool = True
    slots_endpoint: bool = True
    props_endpoint: bool = False
    sampling_defaults: dict[str, Any] = field(default_factory=dict)
    n_predict: int = -1
    num_slots: int | None = None
    slot_save_path: Path | None = None
    spm_infill: bool = False


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """Where the server listens, how it says so, and how it ends.

    hosts: names or addresses; one that ends in `.sock` is the path of a unix socket. port: 0 takes any that is free.
    uds: the path of a unix socket to listen at instead.
    reuse_port: let other processes listen at the same port.
    ssl_*: serve HTTPS; paths of PEM files, `ssl_cert_reqs` as in Python's ssl module.
    root_path: the path under which a proxy, which takes it off, shows this server.
    api_prefix: the path under which everything is served.
    keep_alive: seconds that an idle connection stays open, longer than the minute that proxies keep theirs.
    read_timeout: seconds that a client has to send a request; one that comes fast has more, see `Protocol`.
    shutdown_timeout: seconds that running requests have at the end.
    log_level, log_format, log_file: as in LogOptions.
    """

    hosts: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8080
    uds: str | None = None
    reuse_port: bool = False
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0
    ssl_ciphers: str = "TLSv1"
    root_path: str = ""
    api_prefix: str = ""
    keep_alive: int = 75
    read_timeout: float = 30.0
    shutdown_timeout: float = 30.0
    log_level: str = "INFO"
    log_format: str = "text"
    log_file: str | None = None
