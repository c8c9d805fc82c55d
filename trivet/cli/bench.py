"""`trivet bench`: how fast the engine is, by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from trivet.cli import options

PROMPT_TOKENS = 512


def batches(text: str) -> list[int]:
    """Numbers parted by commas."""
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(sizes) < 1:
        raise typer.BadParameter(f"give whole numbers of at least 1, parted by commas, not {text!r}")
    return sizes


def bench(
    model: options.Model = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            min=1,
            metavar="N",
            help="Tokens of each prompt.",
            show_default=f"{PROMPT_TOKENS}, or fewer in a small context",
        ),
    ] = None,
    gen_tokens: Annotated[
        int, typer.Option("--gen-tokens", min=1, metavar="N", help="Tokens to make for each prompt.")
    ] = 64,
    batch: Annotated[
        Any, typer.Option("--batch", parser=batches, metavar="N,N,...", help="Sequences at a time.")
    ] = "1,8,32",
    threads: options.Threads = 0,
    max_num_batched_tokens: options.StepTokens = 2048,
    kv_cache_dtype: options.CacheDtype = "auto",
    device: options.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure how fast the engine prefills and decodes, in this process.

    Prompts are random tokens; end tokens are ignored. For each batch size:

    \b
    prefill_tok_s  prompt tokens of all sequences / time until each has its first token
    decode_tok_s   tokens a second of all sequences together, while all of them decode
    ttft_ms        from submission to the first token, mean over the sequences
    itl_ms         between two tokens of a sequence, mean over the same while
    load_s         loading the model, once for all batch sizes
    rss_mb         most memory this process has held so far, in 10^6 bytes

    Prefill is measured alone, on prompts never seen before; then the same prompts, whose keys and values are
    still cached, are decoded. A short round comes before the first, to warm up.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from trivet.api.args import EngineArgs
    from trivet.cli import terminal
    from trivet.cli.measure import measure
    from trivet.cli.system import system_info
    from trivet.models.config import ModelConfig
    from trivet.weights import open_checkpoint
    from trivet.weights.hub import resolve

    if prompt_tokens is None:
        config = ModelConfig.from_checkpoint(open_checkpoint(resolve(model)))
        prompt_tokens = max(1, min(PROMPT_TOKENS, config.context_length - gen_tokens))
    args = EngineArgs(
        model,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_dtype=kv_cache_dtype,
        threads=threads,
        device=device,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=terminal.errors, transient=True, disable=not terminal.errors.is_terminal
    ) as progress:
        task = progress.add_task("loading", total=sum(batch) * (prompt_tokens + gen_tokens))

        def tick(what: str, tokens: int) -> None:
            progress.update(task, description=what, advance=tokens)

        results = asyncio.run(measure(args, prompt_tokens, gen_tokens, batch, tick))
    if as_json:
        report = {"model": model or "built-in", "system": system_info(), "results": results}
        print(json.dumps(report, indent=2))
        return
    names = [name for name in results[0] if name not in ("prompt_tokens", "gen_tokens")]
    rows = [["-" if result[name] is None else f"{result[name]:,}" for name in names] for result in results]
    terminal.table(names, rows, title=f"{prompt_tokens} prompt tokens, {gen_tokens} generated")
