"""The options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.errors import RequestError

if TYPE_CHECKING:
    from trivet.sampling.params import SamplingParams

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Root of typer's complaints about the command line, which it does not export."""

TYPICAL = {"temperature": 0.8, "top_p": 0.95}
"""What a person at a terminal gets where neither they nor the model's makers say otherwise."""


def size(text: str) -> int:
    """A number that may have a unit: 16k, 4G."""
    from trivet.api.args import parse_size

    try:
        return parse_size(text, "it")
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


def device(text: str) -> str:
    """Where to compute."""
    from trivet.server.flags import device as read

    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def cache_dtype(text: str) -> str:
    """A type of the KV cache, by any of its names, or two."""
    from trivet.api.args import parse_cache_dtype

    try:
        return parse_cache_dtype(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A .gguf file, a Hugging Face folder or a hub id (org/name, org/name:Q4_K_M).",
        show_default="the built-in model",
    ),
]
Threads = Annotated[int, typer.Option("--threads", "-t", min=0, metavar="N", help="Threads; 0 is one for each core.")]
ContextSize = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        "--ctx-size",
        "-c",
        parser=size,
        metavar="N",
        help="Tokens of prompt and output together; 16k is 16000, 16K is 16384.",
        show_default="the model's own",
    ),
]
StepTokens = Annotated[
    int,
    typer.Option("--max-num-batched-tokens", parser=size, metavar="N", help="Most tokens of one step."),
]
CacheDtype = Annotated[
    str,
    typer.Option(
        "--kv-cache-dtype",
        parser=cache_dtype,
        metavar="TYPE",
        help="Of the KV cache: auto, f32, f16, bf16, q8_0 (on a CPU), KEYS/VALUES of two of these, or fp8 (on a GPU).",
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", parser=device, metavar="DEVICE", help="auto (a GPU where there is one), cpu or cuda."),
]

Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", "--temp", help="0 always takes the likeliest token.", show_default="the model's, or 0.8"
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p", help="Keep the likeliest tokens that make up this much.", show_default="the model's, or 0.95"
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep the K likeliest tokens; 0 is all.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Keep tokens at least this likely, next to the likeliest.")]
TypicalP = Annotated[float | None, typer.Option("--typical-p", "--typical", help="Locally typical sampling.")]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", "--repeat-penalty", help="Above 1, tokens seen before become less likely."),
]
FrequencyPenalty = Annotated[
    float | None, typer.Option("--frequency-penalty", help="The more often a token was made, the less likely.")
]
PresencePenalty = Annotated[
    float | None, typer.Option("--presence-penalty", help="Tokens made before become less likely.")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", "-s", help="The same seed gives the same text.", show_default="a new one each time"),
]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; may be given again.")
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--chat-template", metavar="FILE", help="A Jinja template, or a file with one, instead of the model's."
    ),
]


def sampling(recommended: dict[str, Any], **given: Any) -> SamplingParams:
    """What was given on the command line, else what the model's makers recommend, else what is typical."""
    from trivet.sampling.params import SamplingParams

    chosen = {name: value for name, value in given.items() if value is not None}
    if (longest := chosen.get("max_tokens")) is not None and longest < 1:
        if longest != -1:
            raise RequestError(f"max_tokens must be at least 1, or -1 for as many as fit, got {longest}", "max_tokens")
        chosen["max_tokens"] = None
    return SamplingParams(**{**TYPICAL, **recommended, **chosen})
