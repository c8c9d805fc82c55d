"""`trivet inspect`: what a model holds, and what it needs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from trivet.cli import options
from trivet.units import amount


def inspect(
    model: options.Model = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read all weights; name those that are not finite.")] = False,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            "--ctx-size",
            "-c",
            parser=options.size,
            metavar="N",
            help="Tokens to size the KV cache for.",
            show_default="the model's own",
        ),
    ] = None,
    kv_cache_dtype: options.CacheDtype = "auto",
    system: Annotated[bool, typer.Option("--system", help="Show the processor and the installation instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show what a model holds (architecture, sizes, formats, tokenizer, chat template) and the memory it needs.

    Without --check no weights are read, so this is quick for models of any size. With it the exit code is 1 where a
    weight is NaN or infinite.
    """
    from trivet.cli import terminal

    if system:
        from trivet.cli.system import system_info

        found = system_info()
    else:
        from trivet.cli.describe import describe

        found = describe(model, context, kv_cache_dtype, tensors, check)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif system:
        terminal.pairs(system_rows(found))
    else:
        show_model(found)
    if found.get("not_finite"):
        raise typer.Exit(1)


def show_model(found: dict[str, Any]) -> None:
    from trivet.cli import terminal

    terminal.pairs(model_rows(found))
    formats = [
        (name, f"{entry['tensors']:,}", f"{entry['parameters']:,}", amount(entry["bytes"]))
        for name, entry in found["weights"]["formats"].items()
    ]
    if formats:
        terminal.table(("format", "tensors", "parameters", "size"), formats)
    if "tensors" in found:
        rows = [
            (entry["name"], " x ".join(map(str, entry["shape"])), entry["format"], amount(entry["bytes"]))
            for entry in found["tensors"]
        ]
        terminal.table(("tensor", "shape", "format", "size"), rows)
    for bad in found.get("not_finite", ()):
        for block in bad["blocks"]:
            terminal.errors.print(
                f"not finite: tensor {bad['tensor']} ({bad['format']}), block {block['block']:,}: "
                f"row {block['row']:,}, column {block['column']:,} is {block['value']}",
                style="red",
            )
        if more := bad["count"] - len(bad["blocks"]):
            terminal.errors.print(f"not finite: tensor {bad['tensor']}: {more:,} more blocks", style="red")
    if found.get("not_finite") == []:
        terminal.console.print("all weights are finite")
    for problem in found["problems"]:
        terminal.errors.print(f"cannot run here: {problem}", style="red")


def model_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("model", found["path"]),
        ("name", found["name"] or "-"),
        ("architecture", found["architecture"] or "-"),
        ("parameters", f"{found['weights']['parameters']:,}"),
    ]
    if config := found["config"]:
        rows += [(name.replace("_", " "), shown(value)) for name, value in config.items() if value is not None]
    if tokenizer := found["tokenizer"]:
        begin, ends = tokenizer["bos"], tokenizer["eos"]
        rows += [
            ("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens"),
            ("text begins with", token(begin) if begin else "-"),
            ("text ends with", ", ".join(map(token, ends)) or "-"),
        ]
    template = found["chat_template"]
    rows.append(("chat template", f"{len(template):,} characters" if template else "-"))
    if memory := found["memory"]:
        kind, size = memory["kv_cache_dtype"], memory["kv_bytes_per_token"]
        rows += [
            ("weights", amount(memory["weight_bytes"])),
            (
                "KV cache",
                f"{amount(memory['kv_bytes'])} for {memory['context']:,} tokens ({kind}, {amount(size)} each)",
            ),
            ("memory", amount(memory["total_bytes"])),
        ]
    return rows


def system_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in found.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif name == "gpus":
            text = ", ".join(f"{gpu['name']}, {amount(gpu['memory_bytes'])}" for gpu in value) or "none"
        elif isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        else:
            text = amount(value) if name.endswith("_bytes") else str(value)
        rows.append((name.removesuffix("_bytes").replace("_", " "), text))
    return rows


def shown(value: bool | int) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:,}"


def token(entry: dict[str, Any]) -> str:
    return f"{entry['text']!r} ({entry['id']})"
