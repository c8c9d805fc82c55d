"""`trivet serve`: a model behind a port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM

LOG_LEVELS = ("debug", "info", "warning", "error")


def log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise typer.BadParameter(f"must be one of {', '.join(LOG_LEVELS)}, got {text!r}")
    return text.upper()


def serve(
    model: options.Model = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to serve at; 0.0.0.0 opens the server to the network."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes any that is free.")] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="TRIVET_API_KEY",
            help="Refuse requests without this key; may be given again.",
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            "--served-model-name",
            "--alias",
            "-a",
            metavar="NAME",
            help="What clients call the model; may be given again, the first is reported.",
            show_default="MODEL as given",
        ),
    ] = None,
    max_model_len: options.ContextSize = None,
    max_num_seqs: Annotated[
        int, typer.Option("--max-num-seqs", min=1, metavar="N", help="Most sequences of one step.")
    ] = 128,
    max_num_batched_tokens: options.StepTokens = 2048,
    max_num_queued_reqs: Annotated[
        int,
        typer.Option("--max-num-queued-reqs", min=1, metavar="N", help="Refuse requests (429) when so many wait."),
    ] = 1024,
    threads: options.Threads = 0,
    kv_cache_dtype: options.CacheDtype = "auto",
    kv_cache_memory: Annotated[
        int | None,
        typer.Option(
            "--kv-cache-memory-bytes",
            "--kv-cache-memory",
            parser=options.size,
            metavar="SIZE",
            help="Memory for the KV cache: 500M, 4G.",
            show_default="what a few sequences need",
        ),
    ] = None,
    block_size: Annotated[
        int, typer.Option("--block-size", metavar="N", help="Tokens of a cache block: 16, 32, 64 or 128.")
    ] = 16,
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching", help="Reuse the cache of prompts that begin alike."
        ),
    ] = True,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-s", help="Seeds of requests that give none follow from it.", show_default="a new one"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="PATH", help="Where it is, when not with the model.")
    ] = None,
    chat_template: options.ChatTemplate = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option("--allowed-origins", metavar="ORIGIN", help="Let pages of this origin call (CORS); * is any."),
    ] = None,
    payload_limit: Annotated[
        int,
        typer.Option("--payload-limit", parser=options.size, metavar="SIZE", help="Most bytes of a request."),
    ] = 16 * 2**20,
    shutdown_timeout: Annotated[
        float,
        typer.Option("--shutdown-timeout", min=0, metavar="S", help="Seconds that running requests have at the end."),
    ] = 30.0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log a line for each request; never its text.")
    ] = False,
    level: Annotated[
        str, typer.Option("--log-level", parser=log_level, metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)}.")
    ] = "INFO",
) -> None:
    """Serve a model over HTTP: the APIs of OpenAI, TGI and llama.cpp on one port, and a page to try it at /.

    Only this machine can reach it unless --host says otherwise.
    """
    import asyncio
    import logging
    from dataclasses import replace

    from trivet.api.args import EngineArgs
    from trivet.api.async_llm import AsyncLLM
    from trivet.cli import terminal
    from trivet.engine.process import ProcessClient
    from trivet.server.launch import bind, run
    from trivet.server.options import ServerOptions

    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("uvicorn").setLevel(max(logging.getLogger().level, logging.WARNING))
    args = EngineArgs(
        model=model,
        tokenizer=tokenizer,
        served_model_name=served_model_name or None,
        chat_template=chat_template,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_queued_reqs=max_num_queued_reqs,
        block_size=block_size,
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_memory_bytes=kv_cache_memory,
        enable_prefix_caching=prefix_caching,
        seed=seed,
        threads=threads,
    )
    server_options = ServerOptions(
        api_keys=tuple(api_key or ()),
        allowed_origins=tuple(allowed_origins or ()),
        payload_limit=payload_limit,
        log_requests=log_requests,
    )
    with bind(host, port) as listener:
        terminal.errors.print(f"Loading {model or 'the built-in model'} …", style="dim")
        config = args.engine_config()
        if model is not None:
            args = replace(args, model=config.model, served_model_name=args.served_model_name or model)
        llm = AsyncLLM(args, ProcessClient(config))
        port = listener.getsockname()[1]

        def announce() -> None:
            terminal.console.print(welcome(llm, host, port))

        asyncio.run(run(llm, server_options, listener, announce, shutdown_timeout))


def welcome(llm: AsyncLLM, host: str, port: int) -> str:
    """What is served, and where."""
    from trivet import __version__

    info = llm.info
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    tokens = info.num_blocks * info.block_size
    return (
        f"Trivet {__version__} serves {llm.model_names[0]} ({info.architecture}, {info.dtype}, "
        f"{info.weight_bytes / 1e6:,.1f} MB) on {info.device}\n"
        f"  http://{shown}:{port}  context {info.max_model_len:,} tokens, "
        f"cache {tokens:,} tokens ({info.cache_bytes / 1e6:,.1f} MB)"
    )
