"""What flags mean, for people: the help of the commands that serve, and `docs/flags.md`.

`python -m trivet.cli.flag_help` prints that page.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from trivet.cli.launchers import LAUNCHERS, PEERS, Launcher
from trivet.cli.neutral import GROUPS
from trivet.server.flags import Flag

MAX_WIDTH = 100
COLUMN = 34
"""Where the meanings begin."""

INTRODUCTION = """\
# Flags

What `trivet serve` takes: our own names, and those of the peers for the same settings, in any mixture. Long flags may
be written with underscores, and `--flag=value` is `--flag value`. Of names that several have, ours come first, then
vLLM's, llama.cpp's and TGI's.

- A flag that has no meaning here is accepted, and one line on standard error says why.
- One that asks for what is not supported, and would change the answers, is an error that says so.
- One that nobody knows is an error with the nearest that somebody does.

`trivet vllm serve`, `trivet tgi` and `trivet llama-server` take one peer's flags, have its defaults and pin its
dialect; `python -m trivet.entrypoints.openai.api_server` is `trivet vllm serve`.

The command line wins over a file (`--config FILE.yaml`, whose keys are flags), a file over variables, and these over
the defaults. `trivet serve` looks at the variables `TRIVET_*`, `VLLM_*` and `LLAMA_*`; those of TGI, which have no
prefix (`PORT`, `MODEL_ID`, …), mean something to `trivet tgi` only. `VLLM_PORT` and `VLLM_HOST_IP` are not where vLLM
serves either, and are not looked at. `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` do what they do everywhere.
"""


def usage(name: str) -> str:
    """The help of a command that serves."""
    launcher = LAUNCHERS[name]
    lines = [f"Usage: trivet {name} {launcher.usage}", "", *_wrapped(launcher.about, "  "), ""]
    if name == "serve":
        model = "A .gguf file, a Hugging Face folder or a hub id (org/name, org/name:Q4_K_M)."
        lines += ["Arguments:", *_row("[MODEL]", f"{model} The built-in model unless given."), ""]
        for title, rows in GROUPS.items():
            lines += [f"{title}:", *_rows(rows), ""]
        lines += ["Peers:", *_wrapped("The flags of the peers for these settings are taken too.", "  ")]
        lines += [line for peer, (own, _) in PEERS.items() for line in _row(f"--help-{peer}", f"Those of `{own}`.")]
        lines += ["", "Other:", *_row("--config FILE", "A YAML file with flags, which the command line overrides.")]
        lines += [*_row("-h, --help", "Show this message."), ""]
    else:
        lines += [*_sections(launcher.flags), *_wrapped(f"Defaults: {_defaults(launcher)}.", "")]
    return "\n".join(lines).rstrip()


def peer_help(peer: str) -> str:
    """What a peer's flags mean here."""
    own, flags = PEERS[peer]
    return "\n".join([f"What the flags of `{own}` mean to `trivet serve`:", "", *_sections(flags)]).rstrip()


def page() -> str:
    """docs/flags.md."""
    parts = [INTRODUCTION, "## trivet serve\n", _table([row for rows in GROUPS.values() for row in rows])]
    for own, flags in PEERS.values():
        command = next(name for name, launcher in LAUNCHERS.items() if name != "serve" and launcher.flags is flags)
        defaults = f"The defaults of `trivet {command}`: {_defaults(LAUNCHERS[command])}.\n"
        parts += [f"## {own}\n", defaults, _table(flags)]
    return "\n".join(parts)


def _defaults(launcher: Launcher) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in launcher.defaults.items())


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(flags: Iterable[Flag]) -> str:
    lines = ["| flag | variable | what it does here |", "|---|---|---|"]
    for row in flags:
        names = ", ".join(f"`{name}`" for name in (*row.spellings, *row.off.split()))
        variables = ", ".join(f"`{name}`" for name in row.env.split())
        lines.append(f"| {names} | {variables} | {meaning(row)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def meaning(row: Flag) -> str:
    """One line about what a flag does, or why it does nothing."""
    if row.sets:
        return row.help
    if row.allowed is None:
        return f"No effect: {row.help}."
    if row.switch:
        return f"{'Refused' if row.allowed == ('false',) else 'Its `--no-` form is refused'}: {row.help}."
    neutral = [value for value in row.allowed if value]
    return f"Refused{' but for ' + ', '.join(f'`{value}`' for value in neutral) if neutral else ''}: {row.help}."


def _sections(flags: Sequence[Flag]) -> Iterator[str]:
    """Those that mean something first."""
    for title, rows in {
        "Options": [row for row in flags if row.sets and row.names],
        "Without effect here": [row for row in flags if not row.sets and row.allowed is None and row.names],
        "Not supported": [row for row in flags if not row.sets and row.allowed is not None],
        "Variables": [row for row in flags if not row.names],
    }.items():
        if rows:
            yield from (f"{title}:", *_rows(rows), "")


def _rows(rows: Iterable[Flag]) -> Iterator[str]:
    for row in rows:
        names = sorted(row.spellings, key=lambda name: name.startswith("--")) or row.env.split()
        value = "" if row.switch else f" {row.metavar}"
        yield from _row(", ".join(names) + value, meaning(row).replace("`", "").removeprefix("No effect: "))


def _row(left: str, right: str) -> list[str]:
    lines = textwrap.wrap(right, _width() - COLUMN)
    if len(left) > COLUMN - 4:
        return [f"  {left}", *[" " * COLUMN + line for line in lines]]
    return [f"  {left:<{COLUMN - 2}}{lines[0]}", *[" " * COLUMN + line for line in lines[1:]]]


def _width() -> int:
    """The terminal's, as far as lines are still easy to read."""
    return max(2 * COLUMN, min(MAX_WIDTH, shutil.get_terminal_size().columns))


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _width(), initial_indent=indent, subsequent_indent=indent)


if __name__ == "__main__":
    print(page(), end="")
