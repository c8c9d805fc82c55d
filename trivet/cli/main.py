"""The command `trivet`: a table of commands, loaded on use, and one way to report errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from trivet.cli.options import UsageError
from trivet.cli.values import PlainValues
from trivet.errors import TrivetError

COMMANDS = {
    "run": ("trivet.cli.run:run", "Complete a prompt and stream the text."),
    "chat": ("trivet.cli.chat:chat", "Talk with a model in the terminal."),
    "serve": ("trivet.cli.serve:serve", "Serve a model over HTTP: OpenAI, TGI, llama.cpp, Anthropic."),
    "tgi": ("trivet.cli.serve:tgi", "Serve with TGI's flags and defaults."),
    "vllm": ("trivet.cli.serve:vllm", "Serve with vLLM's flags and defaults."),
    "llama-server": ("trivet.cli.serve:llama_server", "Serve with llama-server's flags and defaults."),
    "bench": ("trivet.cli.bench:bench", "Measure prefill and decode speed."),
    "bench-serve": ("trivet.cli.bench_serve:bench_serve", "Measure a server as its clients see it."),
    "inspect": ("trivet.cli.inspect:inspect", "Show what a model file holds and what it needs."),
    "tokenize": ("trivet.cli.tokenize:tokenize", "Turn text into token ids."),
    "quantize": ("trivet.cli.quantize:quantize", "Write a model in a smaller format."),
    "convert": ("trivet.cli.convert:convert", "Turn a Hugging Face folder into a GGUF file."),
}
"""Name -> (module:function, help). A command's module, and all it imports, is loaded only when it runs."""

VERBATIM = ("serve", "tgi", "vllm", "llama-server")
"""Commands that read their arguments themselves."""

LOADING = ("run", "chat")
"""Commands that load a model into this process as their first act."""

GPU = Path("/dev/nvidiactl")
"""There where an NVIDIA GPU is, whose memory is another."""

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(PlainValues, TyperGroup):
    """Lists stand-ins for the commands; the real one is loaded when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else stand_in, rest


class Command(PlainValues, TyperCommand):
    """Reads its arguments by the annotations of the function."""


class Verbatim(TyperCommand):
    """Leaves all arguments to the function."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return args


def load(name: str) -> Any:
    """Import a command's function and make a typer command of it."""
    module, function = COMMANDS[name][0].split(":")
    command = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=SETTINGS)
    cls = Verbatim if name in VERBATIM else Command
    command.command(name, cls=cls)(getattr(importlib.import_module(module), function))
    return typer.main.get_command(command)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)
for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def show_version(wanted: bool) -> None:
    if wanted:
        from trivet import __version__

        print(f"trivet {__version__}")
        raise typer.Exit


@app.callback()
def trivet(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Trivet runs and serves large language models.

    MODEL is a .gguf file, a Hugging Face folder or a hub id (org/name, org/name:Q4_K_M); left out, a small
    built-in model is used.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; a failure is one line on stderr. Exit codes: 1 failed, 2 wrong use, 130 interrupted."""
    # numpy's products are none of ours; its threads for them would spin for a while when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    expect_model(arguments)
    try:
        code = app(arguments, prog_name="trivet", standalone_mode=False) or 0
    except UsageError as error:
        code = fail(usage_message(error), 2)
    except TrivetError as error:
        code = fail(str(error))
    except OSError as error:
        code = fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ImportError as error:
        code = fail(f"this installation does not work: {error}")
    except UnicodeError as error:
        code = fail(f"not valid text: {error}")
    except MemoryError:
        code = fail("not enough memory")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("trivet: interrupted", file=sys.stderr)
    sys.exit(code)


def expect_model(arguments: Sequence[str]) -> None:
    """Have memory prepared for the weights of a model file that is named, while all that loads it is imported. A
    wrong guess costs nothing that lasts; memory that is not there is left alone, as its loading will refuse it.
    """
    model = next((Path(text) for text in arguments[1:] if text.endswith(".gguf")), None)
    if arguments[0] not in LOADING or model is None or not model.is_file() or GPU.exists():
        return
    from trivet import _native
    from trivet.runtime.machine import available_bytes

    size = model.stat().st_size
    if size < available_bytes():
        _native.expect_weights(size)


def fail(message: str, code: int = 1) -> int:
    print(f"trivet: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def usage_message(error: Any) -> str:
    """typer's message, with the nearest option where one was misspelt, and where to read on."""
    near = getattr(error, "possibilities", None)
    text = f"{error.message}, did you mean {near[0]}?" if near else error.format_message().removesuffix(".")
    path = error.ctx.command_path if error.ctx else "trivet"
    text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    return f"{text} (see `{path} --help`)"
