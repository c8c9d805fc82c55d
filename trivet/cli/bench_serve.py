"""`trivet bench-serve`: how fast a server is, as its clients see it."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from trivet.bench.benchmark import Result
    from trivet.bench.workload import Shape

INPUT_LEN, OUTPUT_LEN = 128, 64
USED = {
    "random": ("--input-len", "--output-len"),
    "sharegpt-like": ("--length-scale",),
    "azure-trace": ("--trace", "--length-scale", "--rate-scale"),
    "FILE": ("--output-len",),
}
"""The options that each workload reads."""


def dialect_name(text: str) -> str:
    from trivet.bench.dialects import DIALECTS

    if text not in DIALECTS:
        raise typer.BadParameter(f"must be one of {', '.join(DIALECTS)}, got {text!r}")
    return text


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"must be a number above 0, got {text!r}")
    return value


def rate(text: str) -> float:
    """Requests a second; inf is all at once."""
    return math.inf if text == "inf" else positive(text)


def bench_serve(
    url: Annotated[
        str, typer.Option("--url", "--base-url", metavar="URL", help="The server's root.")
    ] = "http://127.0.0.1:8080",
    dialect: Annotated[
        str,
        typer.Option(
            "--dialect", "--backend", parser=dialect_name, metavar="NAME", help="openai, openai-chat, tgi or llamacpp."
        ),
    ] = "openai",
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="As the server calls it.", show_default="the first it lists"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", metavar="KEY", envvar="TRIVET_API_KEY", help="The server's key.")
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            "--workload", metavar="WHAT", help="random, sharegpt-like, azure-trace, or a JSON Lines file of prompts."
        ),
    ] = "random",
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="The CSV file of --workload azure-trace.")
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            "--request-rate",
            parser=rate,
            metavar="R",
            help="Requests a second, at random times (Poisson); inf is all at once.",
            show_default="inf; a trace's own times",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "--max-concurrency", min=1, metavar="C", help="Most requests at a time."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            "--requests",
            "--num-prompts",
            min=1,
            metavar="N",
            help="How many to send.",
            show_default="100, or all within --duration",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", parser=positive, metavar="S", help="Send nothing more after S seconds."),
    ] = None,
    input_len: Annotated[
        int | None,
        typer.Option("--input-len", min=1, metavar="N", help="Tokens of a random prompt.", show_default=str(INPUT_LEN)),
    ] = None,
    output_len: Annotated[
        int | None,
        typer.Option(
            "--output-len",
            min=1,
            metavar="N",
            help="Tokens to make, for random prompts and files that do not say.",
            show_default=str(OUTPUT_LEN),
        ),
    ] = None,
    length_scale: Annotated[
        float | None,
        typer.Option(
            "--length-scale",
            parser=positive,
            metavar="F",
            help="Times the lengths of sharegpt-like and azure-trace.",
            show_default="1",
        ),
    ] = None,
    rate_scale: Annotated[
        float | None,
        typer.Option(
            "--rate-scale", parser=positive, metavar="F", help="Times the rate of azure-trace.", show_default="1"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="PATH",
            help="The model's (a GGUF file or folder): prompts have their lengths exactly. Without it, they are of "
            "words, as many as make the length on average.",
        ),
    ] = None,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos/--no-ignore-eos", help="Make all tokens asked for; TGI has no such setting."),
    ] = True,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "--temp", min=0.0, show_default="the server's")
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo", "--goodput", metavar="ttft=MS,itl=MS,…", help="Count the requests within these: goodput."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", parser=positive, metavar="S", help="Most seconds of a request.")
    ] = 600.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", "-s", min=0, help="The same seed asks the same, at the same times.", show_default="a new one"
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers, by vLLM's names.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw percentiles and the course of the run (PNG).")
    ] = None,
) -> None:
    """Measure a server: this one, or any that speaks the OpenAI, TGI or llama.cpp API.

    \b
    TTFT  time to first token: from sending a request to the first piece of its answer
    ITL   inter-token latency: between two pieces of an answer
    TPOT  time per output token: (E2E - TTFT) / (tokens - 1) of each request
    E2E   end to end: from sending a request to the last piece of its answer

    These are the definitions of `vllm bench serve`. A --slo limits ttft, itl (the longest of a request), tpot and
    e2e, in milliseconds.

    A server that has seen a prompt may answer from its cache: a --seed measures that when given twice.
    """
    import numpy as np

    from trivet.bench.benchmark import benchmark
    from trivet.bench.client import Client
    from trivet.bench.dialects import DIALECTS, Options
    from trivet.bench.load import Target
    from trivet.bench.metrics import details, failures, parse_slo, summarise
    from trivet.bench.plot import plot, require_matplotlib
    from trivet.bench.workload import schedule
    from trivet.cli import terminal
    from trivet.cli.bench_report import headline, progress, show
    from trivet.errors import TrivetError
    from trivet.text.tokenizer import Tokenizer

    limits = parse_slo(slo) if slo else {}
    if plot_file:
        require_matplotlib()
    for file in (json_file, plot_file):
        if file and not file.absolute().parent.is_dir():
            raise TrivetError(f"{file}: there is no folder {file.parent}")
    seed = secrets.randbits(32) if seed is None else seed
    rng = np.random.default_rng([seed, 0])
    shapes = shapes_of(workload, rng, trace, input_len, output_len, length_scale, rate_scale)
    plan = schedule(shapes, rng, requests=requests, rate=request_rate, concurrency=concurrency, duration=duration)
    target = Target(Client(url, api_key, timeout), DIALECTS[dialect], Options(model, ignore_eos, temperature))

    async def measure() -> Result:
        with progress(len(plan) if isinstance(plan, list) else None, duration) as done:
            return await benchmark(
                target,
                plan,
                seed=seed,
                tokenizer=Tokenizer.load(tokenizer) if tokenizer else None,
                concurrency=concurrency,
                duration=duration,
                done=done,
            )

    result = asyncio.run(measure())
    summary = summarise(result.records, result.seconds, limits)
    failed = failures(result.records)
    settings = {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": dialect,
        "base_url": target.client.url,
        "model_id": result.model,
        "workload": workload,
        "num_prompts": len(result.records),
        "request_rate": pace_of(request_rate, concurrency, workload),
        "max_concurrency": concurrency,
        "seed": seed,
        "slo_ms": limits,
    }
    if json_file:
        counts = {"errors_by_kind": {kind: count for kind, (count, _) in failed.items()}, "client_busy_s": result.busy}
        json_file.write_text(json.dumps({**settings, **summary, **counts, **details(result.records)}) + "\n")
    show(settings, summary, failed, result)
    if not summary["completed"]:
        kind, (count, first) = next(iter(failed.items()), ("none was sent", (0, "--duration is too short")))
        raise TrivetError(f"no request succeeded: {count} × {kind}: {first}")
    if plot_file:
        plot(result.records, headline(settings), plot_file)
        terminal.errors.print(f"wrote {plot_file}", style="dim")


def shapes_of(
    workload: str,
    rng: np.random.Generator,
    trace: Path | None,
    input_len: int | None,
    output_len: int | None,
    length_scale: float | None,
    rate_scale: float | None,
) -> Iterable[Shape]:
    """The requests of a workload; an option that it has no use for is refused."""
    from trivet.bench.workload import azure_trace, fixed, from_file, sharegpt_like

    given = {
        "--trace": trace,
        "--input-len": input_len,
        "--output-len": output_len,
        "--length-scale": length_scale,
        "--rate-scale": rate_scale,
    }
    used = USED.get(workload, USED["FILE"])
    for name, value in given.items():
        if value is not None and name not in used:
            raise typer.BadParameter(f"{name} does not go with --workload {workload}")
    if workload == "random":
        return fixed(input_len or INPUT_LEN, output_len or OUTPUT_LEN)
    if workload == "sharegpt-like":
        return sharegpt_like(rng, length_scale or 1.0)
    if workload == "azure-trace":
        if trace is None:
            raise typer.BadParameter("--workload azure-trace needs --trace FILE")
        return azure_trace(trace, length_scale or 1.0, rate_scale or 1.0)
    if not Path(workload).is_file():
        raise typer.BadParameter(f"--workload must be random, sharegpt-like, azure-trace or a file, got {workload!r}")
    return from_file(workload, output_len or OUTPUT_LEN)


def pace_of(request_rate: float | None, concurrency: int | None, workload: str) -> float | str:
    if request_rate is None and workload == "azure-trace" and not concurrency:
        return "trace"
    return "inf" if request_rate is None or math.isinf(request_rate) else request_rate
