"""`trivet convert`: a Hugging Face folder as a GGUF file."""

from __future__ import annotations

from typing import Annotated

import typer

from trivet.cli.quantize import MIX_HELP, Target, mix, write


def convert(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A Hugging Face folder or hub id.")],
    target: Target,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            parser=mix,
            metavar="TYPE",
            help=MIX_HELP,
            show_default="the folder's own",
        ),
    ] = None,
) -> None:
    """Turn a Hugging Face folder into one GGUF file: weights, configuration, tokenizer and chat template.

    What the file says is read back and compared with the folder before anything is written.
    """
    from collections import Counter

    from trivet.convert import as_gguf
    from trivet.weights import open_checkpoint
    from trivet.weights.hub import resolve

    source = as_gguf(open_checkpoint(resolve(folder)))
    formats = Counter(info.format.name for info in source.tensors.values() if len(info.shape) > 1)
    write(source, target, to or mix(formats.most_common(1)[0][0]))
