"""`trivet tokenize`: texts to token ids."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from trivet.cli import options


def tokenize(
    model: options.Model = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="A text; may be given several times.")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read one text, to its end, from standard input.")] = False,
    no_special: Annotated[
        bool, typer.Option("--no-special", help="Do not put BOS and the like around the text.")
    ] = False,
    no_parse_special: Annotated[
        bool, typer.Option("--no-parse-special", help="Take the text of a special token for plain text.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a text: its ids and the piece of text of each.")
    ] = False,
) -> None:
    """Turn text into token ids, one line of ids a text."""
    if stdin == bool(text):
        raise typer.BadParameter("give either --text or --stdin")
    from trivet.text.tokenizer import Tokenizer
    from trivet.weights.hub import resolve

    texts = text or [_standard_input()]
    tokenizer = Tokenizer.load(resolve(model))
    for one in texts:
        ids = tokenizer.encode(one, add_special=not no_special, parse_special=not no_parse_special)
        if as_json:
            pieces = [tokenizer.token_text(i) for i in ids]
            print(json.dumps({"text": one, "ids": ids, "pieces": pieces}, ensure_ascii=False))
        else:
            print(*ids)


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
