"""`trivet quantize`: a model in a smaller format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trivet.weights.tensor import Checkpoint, TensorInfo


def mix(text: str) -> str:
    """A quantisation by its name, in any case."""
    from trivet.weights.mixes import ALIASES, MIXES

    name = ALIASES.get(text.upper(), text.upper())
    if name not in MIXES:
        raise typer.BadParameter(f"must be one of {', '.join(MIXES)}, got {text!r}")
    return name


MIX_HELP = "Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M, Q2_K, ...; F32, F16 or BF16. Any other word lists them all."
Target = Annotated[Path, typer.Argument(metavar="DST", help="The .gguf file to write.")]


def quantize(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A GGUF model in F32, F16 or BF16, or a Hugging Face folder or hub id."),
    ],
    target: Target,
    to: Annotated[
        str,
        typer.Option("--to", parser=mix, metavar="TYPE", help=MIX_HELP),
    ],
) -> None:
    """Write a model in a smaller format.

    Q8_0 is hardly told from the original and half the size of BF16; Q4_K_M is the usual choice at a quarter of it.
    Below that the loss shows. TQ1_0, TQ2_0, Q1_0 and Q2_0 are for models trained with so few values.
    Norms and biases stay F32, and some matrices get more bits where this pays (the mixtures are llama.cpp's).
    """
    from trivet.convert import as_gguf
    from trivet.weights import open_checkpoint
    from trivet.weights.hub import resolve

    write(as_gguf(open_checkpoint(resolve(source))), target, to)


def write(source: Checkpoint, target: Path, to: str) -> None:
    """Write the file with a progress bar, then say what it holds."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from trivet.cli import terminal
    from trivet.weights.export import export

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=terminal.errors, transient=True, disable=not terminal.errors.is_terminal) as bar:
        task = bar.add_task(f"Writing {target.name}", total=sum(info.num_bytes for info in source.tensors.values()))

        def advance(info: TensorInfo) -> None:
            bar.advance(task, source.tensors[info.name].num_bytes)

        written = export(source, target, to, advance)
    show(source, written, target)


def show(source: Checkpoint, written: Mapping[str, TensorInfo], target: Path) -> None:
    """A line for each format of the new file, and its size next to the source's."""
    from trivet.cli import terminal
    from trivet.units import amount

    formats: dict[str, list[TensorInfo]] = {}
    for info in written.values():
        formats.setdefault(info.format.name, []).append(info)
    sizes = {name: sum(info.num_bytes for info in infos) for name, infos in formats.items()}
    rows = [(name, f"{len(formats[name])}", amount(size)) for name, size in sizes.items()]
    terminal.table(("format", "tensors", "size"), rows)
    before, after = sum(info.num_bytes for info in source.tensors.values()), sum(sizes.values())
    values = sum(math.prod(info.shape) for info in written.values())
    terminal.console.print(
        f"{target}: {amount(after)} instead of {amount(before)}, {8 * after / max(values, 1):.2f} bits per weight"
    )
