"""`trivet run`: complete a prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli import options

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer


def run(
    model: options.Model = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The text to continue.", show_default="standard input, where piped"),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", "--n-predict", "-n", metavar="N", help="Tokens to make; -1 is as many as fit."),
    ] = 256,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end of the text.")] = False,
    max_model_len: options.ContextSize = None,
    kv_cache_dtype: options.CacheDtype = "auto",
    threads: options.Threads = 0,
    device: options.Device = "auto",
) -> None:
    """Complete a prompt and stream the text to standard output.

    On a terminal the prompt is shown before it, and the speed after it.
    """
    from trivet.cli import session

    if prompt is None:
        prompt = "" if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    with session.load(
        model, max_model_len=max_model_len, kv_cache_dtype=kv_cache_dtype, threads=threads, device=device
    ) as llm:
        params = options.sampling(
            llm.recommended_params,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            typical_p=typical_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
        )
        if sys.stdout.isatty():
            from trivet.cli import terminal

            terminal.console.print(prompt, style="dim", end="")
        _, interrupted = session.write(llm.stream(prompt or opening(llm.get_tokenizer()), params))
    if interrupted:
        raise KeyboardInterrupt


def opening(tokenizer: Tokenizer) -> list[int] | str:
    """The prompt of a text that starts from nothing: whatever parts texts for this model."""
    if tokenizer.bos_id is not None:
        return [tokenizer.bos_id]
    return tokenizer.eos_ids[:1] or "\n"
