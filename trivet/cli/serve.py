"""`trivet serve`, and the launchers of the peers: a model behind a port."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from trivet.cli.options import UsageError

if TYPE_CHECKING:
    from trivet.api.async_llm import AsyncLLM
    from trivet.cli.commandline import Parsed, Settings
    from trivet.cli.launchers import Launcher


def serve(context: typer.Context) -> None:
    """Serve a model over HTTP."""
    launch("serve", context, context.args)


def tgi(context: typer.Context) -> None:
    """Serve with TGI's flags and defaults."""
    launch("tgi", context, context.args)


def llama_server(context: typer.Context) -> None:
    """Serve with llama-server's flags and defaults."""
    launch("llama-server", context, context.args)


def vllm(context: typer.Context) -> None:
    """Serve with vLLM's flags and defaults."""
    command, *rest = context.args or ["--help"]
    if command not in ("serve", "-h", "--help", "--version"):
        raise UsageError(f"of vllm's commands there is only serve, got {command!r}", context)
    launch("vllm", context, rest if command == "serve" else [command])


def launch(name: str, context: typer.Context, argv: list[str]) -> None:
    """Do what a command line of the launcher `name` asks."""
    from trivet import __version__
    from trivet.cli import flag_help
    from trivet.cli.commandline import WrongUse
    from trivet.cli.launchers import LAUNCHERS, PEERS

    if "--version" in argv:
        print(f"trivet {__version__}")
        return
    asked = {"-h": name, "--help": name, **{f"--help-{peer}": peer for peer in PEERS}}
    for token in argv:
        if token in asked:
            print(flag_help.peer_help(asked[token]) if token.startswith("--help-") else flag_help.usage(name))
            return
    try:
        run_server(read_settings(LAUNCHERS[name], argv))
    except WrongUse as error:
        raise UsageError(str(error), context) from None


def read_settings(launcher: Launcher, argv: list[str]) -> Settings:
    """The command line, over a file, over variables, over defaults; what has no meaning is said on standard error.

    Raises WrongUse.
    """
    from trivet.cli.commandline import Parser

    parser = Parser(launcher.flags)
    given = parser.parse(argv)
    sources = [parser.environment(os.environ), given]
    if file := given.settings.get("config"):
        sources.insert(1, parser.file(file))
    settings = dict(launcher.defaults)
    for source in sources:
        settings |= source.settings
        for note in source.notes:
            print(f"trivet: {note}", file=sys.stderr)
    if model := positional_model(launcher, given, settings):
        settings["model"] = model
    return settings


def positional_model(launcher: Launcher, given: Parsed, settings: Settings) -> str | None:
    """The word of a command line that is the model. Raises WrongUse where there are too many, or perhaps none."""
    from trivet.cli.commandline import WrongUse

    if given.positional[1:] or (given.positional and not launcher.takes_model):
        raise WrongUse(f"unexpected argument {given.positional[-1]!r}")
    if given.positional:
        return given.positional[0]
    if given.greedy and launcher.takes_model and not settings.get("model"):
        raise WrongUse(f"{given.greedy[0]} takes all values that follow it: put the model first")
    return None


def run_server(settings: Settings) -> None:
    """Serve until a signal ends it."""
    import asyncio
    from dataclasses import replace

    from trivet.api.async_llm import AsyncLLM
    from trivet.cli import terminal
    from trivet.cli.settings import engine_args, listen_options, server_options, set_environment
    from trivet.engine.process import ProcessClient
    from trivet.logs import LogOptions, configure
    from trivet.server.launch import check_certificate, listening, run
    from trivet.server.tracing import check_tracing

    set_environment(settings)
    listen, options = listen_options(settings), server_options(settings)
    log = LogOptions(level=listen.log_level, format=listen.log_format, file=listen.log_file)
    configure(log)
    check_certificate(listen)
    check_tracing(options)
    with listening(listen) as (listeners, addresses):
        model = settings.get("model")
        terminal.errors.print(f"Loading {model or 'the built-in model'} …", style="dim")
        args = engine_args(settings)
        config = args.engine_config()
        if model is not None:
            args = replace(args, model=config.model, served_model_name=args.served_model_name or model)
        llm = AsyncLLM(args, ProcessClient(config, log=log))

        def announce() -> None:
            terminal.console.print(welcome(llm, addresses))

        asyncio.run(run(llm, options, listen, listeners, announce))


def welcome(llm: AsyncLLM, addresses: list[str]) -> str:
    """What is served, and where."""
    from trivet import __version__

    info = llm.info
    tokens = info.num_blocks * info.block_size
    return (
        f"Trivet {__version__} serves {llm.model_names[0]} ({info.architecture}, {info.dtype}, "
        f"{info.weight_bytes / 1e6:,.1f} MB) on {info.device}\n"
        f"  {' '.join(addresses)}  context {info.max_model_len:,} tokens, "
        f"cache {tokens:,} tokens ({info.cache_bytes / 1e6:,.1f} MB)"
    )
