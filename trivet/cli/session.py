"""A model at work in front of a person: what goes to standard output, and what only a terminal sees."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.api.llm import LLM
    from trivet.api.outputs import RequestOutput


def load(model: str | None, **args: Any) -> LLM:
    """Load a model for one sequence at a time."""
    gc.disable()  # of what loading makes, hardly anything is garbage, and a million objects are looked at
    try:
        with _status("Loading the model …"):
            from trivet.api.llm import LLM

            llm = LLM(model, max_num_seqs=1, seed=None, **args)
        gc.freeze()
    finally:
        gc.enable()
    return llm


def _status(text: str) -> AbstractContextManager[Any]:
    if not sys.stderr.isatty():
        return nullcontext()
    from trivet.cli.terminal import errors

    return errors.status(text)


def write(outputs: Iterator[RequestOutput]) -> tuple[str, bool]:
    """Stream text to standard output, then, on a terminal, show how fast it came.

    Returns the text and whether Ctrl-C ended it early.
    """
    text = ""
    last: RequestOutput | None = None
    interrupted = False
    try:
        for last in outputs:
            text += last.outputs[0].text
            sys.stdout.write(last.outputs[0].text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if text and not text.endswith("\n"):
            print(flush=True)
    if sys.stderr.isatty() and last is not None:
        from trivet.cli.terminal import errors

        errors.print(speed(last), style="dim")
    return text, interrupted


def speed(output: RequestOutput) -> str:
    """One line about a finished output."""
    metrics = output.metrics
    assert metrics is not None
    prompt = len(output.prompt_token_ids)
    wait = metrics.first_token_ts - metrics.queued_ts
    line = f"{prompt} prompt tokens, first token after {wait * 1e3:.0f} ms"
    made = metrics.num_generation_tokens
    if (spent := metrics.last_token_ts - metrics.first_token_ts) > 0:
        line += f" · {made} tokens, {(made - 1) / spent:.1f} tok/s"
    return line
