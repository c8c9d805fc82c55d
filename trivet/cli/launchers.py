"""The commands that serve: each a table of flags, and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trivet.cli import neutral
from trivet.cli.commandline import Settings
from trivet.server.dialects.llamacpp import flags as llamacpp
from trivet.server.dialects.openai import flags as openai
from trivet.server.dialects.tgi import flags as tgi
from trivet.server.flags import Flag

PEERS: dict[str, tuple[str, Sequence[Flag]]] = {
    "vllm": ("vllm serve", openai.FLAGS),
    "tgi": ("text-generation-launcher", tgi.FLAGS),
    "llamacpp": ("llama-server", llamacpp.FLAGS),
}
"""Name -> what the peer's own command is called, and its flags."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """usage: what follows the command in its help. takes_model: whether a bare word is the model."""

    about: str
    usage: str
    flags: Sequence[Flag]
    defaults: Settings = field(default_factory=dict)
    takes_model: bool = True


LAUNCHERS = {
    "serve": Launcher(
        "Serve a model over HTTP: the APIs of OpenAI, TGI, llama.cpp and Anthropic on one port, and a page at /.",
        "[OPTIONS] [MODEL]",
        [
            *neutral.FLAGS,
            *openai.FLAGS,
            *llamacpp.FLAGS,
            # PORT, HOSTNAME or MODEL_ID may be there for others: only `trivet tgi` looks at them.
            *[replace(row, env="") for row in tgi.FLAGS if row.names],
        ],
    ),
    "vllm": Launcher(
        "Serve as `vllm serve` does, with its flags and defaults.",
        "serve [OPTIONS] [MODEL]",
        openai.FLAGS,
        openai.DEFAULTS,
    ),
    "tgi": Launcher(
        "Serve as text-generation-launcher does, with its flags, variables and defaults.",
        "[OPTIONS]",
        tgi.FLAGS,
        tgi.DEFAULTS,
        takes_model=False,
    ),
    "llama-server": Launcher(
        "Serve as llama-server does, with its flags, variables and defaults.",
        "[OPTIONS]",
        llamacpp.FLAGS,
        llamacpp.DEFAULTS,
        takes_model=False,
    ),
}
