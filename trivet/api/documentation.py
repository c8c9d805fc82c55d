"""docs/python.md, made from the classes themselves: `python -m trivet.api.documentation`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from typing import Any

from trivet.api.args import AsyncEngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.llm import LLM
from trivet.api.llm_engine import LLMEngine
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import UNAVAILABLE, VllmParams

INTRODUCTION = """\
# Python

The Python API is vLLM's: the same classes, arguments, defaults and outputs.

```python
from trivet import LLM, SamplingParams

llm = LLM(model="model.gguf")
for output in llm.generate(["Once upon a time"], SamplingParams(temperature=0, max_tokens=40)):
    print(output.outputs[0].text)
```

```python
import asyncio
from trivet import AsyncEngineArgs, AsyncLLM, SamplingParams

async def main():
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="model.gguf", max_num_batched_tokens=8192))
    async for output in engine.generate("Once upon a time", SamplingParams(max_tokens=40), request_id="1"):
        print(output.outputs[0].text)
    engine.shutdown()

asyncio.run(main())
```

A script written for vLLM runs when its imports name `trivet.vllm_compat` instead of `vllm`
(`from trivet.vllm_compat import LLM`, `from trivet.vllm_compat.sampling_params import BeamSearchParams`, …), or
unchanged after `trivet.vllm_compat.install()`, where vLLM itself is not installed.

What differs from vLLM 0.32:

- `model` may be left out: then it is the small one that comes with Trivet. A `.gguf` file is a model too.
- `LLM(engine_args=args)` is taken as `LLM.from_engine_args(args)` is; `LLM` and its engine have `close()`.
- `LLM.stream(prompt, params)` yields pieces of one output as they come.
- An unknown keyword is a `TypeError` that names the nearest. What is not supported is refused with a `RequestError`,
  which is a `ValueError`; its `parameter` names the argument. Nothing is ignored that asks for something.
- The same request gives the same tokens, whatever else runs.
- vLLM's own limits (temperature up to 2, presence and frequency penalties up to 2, one sequence with temperature 0,
  `max_logprobs`) are checked where a request is made, not in `SamplingParams`, which other dialects use too.
- The end of a beam in `beam_search` has a `finish_reason`.
- `RequestOutput.metrics` is always there. `LLM.get_metrics` has what the engine counts; no histograms.
- `AsyncLLM` runs its engine in a thread of this process, and serves one event loop at a time.
- `reset_prefix_cache` lets no later request find what earlier ones left, and always succeeds.

This page is made by `python -m trivet.api.documentation`.
"""
CLASSES = (LLM, AsyncLLM, LLMEngine)
REFUSED = "Not available: "


def page() -> str:
    parts = [INTRODUCTION]
    for cls in CLASSES:
        parts += [f"## `{cls.__name__}`\n", _methods(cls)]
    parts += [
        "## `EngineArgs`, and the keywords of `LLM`\n",
        _table(("field", "default", "what it does"), _arguments()),
    ]
    parts += ["## `SamplingParams`\n", _table(("field", "default", "here"), _parameters())]
    return "\n".join(parts)


def _methods(cls: type) -> str:
    functions = {
        name: function
        for name, member in vars(cls).items()
        if not name.startswith("_") and inspect.isfunction(function := getattr(member, "__func__", member))
    }
    said = {name: _first_sentence(function) for name, function in functions.items()}
    refused: dict[str, list[str]] = {}
    for name in functions:
        if said[name].startswith(REFUSED):
            refused.setdefault(said[name].removeprefix(REFUSED), []).append(f"`{name}`")
    told = [(f"`{name}`", text) for name, text in said.items() if text and not text.startswith(REFUSED)]
    plain = ", ".join(f"`{name}`" for name, text in said.items() if not text)
    refusals = [f"- {', '.join(names)}: {reason}" for reason, names in refused.items()]
    return "\n".join([_table(("method", "what it does"), told), f"Also {plain}. Refused:\n", *refusals, ""])


def _first_sentence(function: Any) -> str:
    text = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def _arguments() -> Iterable[tuple[str, ...]]:
    said = _described(AsyncEngineArgs.__mro__[1]) | _described(AsyncEngineArgs)
    for field in sorted(dataclasses.fields(AsyncEngineArgs), key=lambda field: field.name not in said):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        yield f"`{field.name}`", f"`{default!r}`", said.get(field.name) or _refusal(field.metadata, default)


def _refusal(metadata: Any, default: Any) -> str:
    if metadata["also"] is None:
        return f"no effect: {metadata['why']}"
    values = ", ".join(f"`{value!r}`" for value in (default, *metadata["also"]))
    return f"refused unless {values}: {metadata['why']}"


def _described(cls: type) -> dict[str, str]:
    """What the docstring says of each field, in paragraphs of the form `name, name: text`."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    said: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if match := re.match(r"(\w+(?:, \w+)*): (.*)", line):
            names, line = match[1].split(", "), match[2]
        elif not line.startswith(" "):
            names = []
        for name in names:
            said[name] = f"{said.get(name, '')} {line.strip()}".strip()
    return said


def _parameters() -> Iterable[tuple[str, ...]]:
    plain, said = SamplingParams(), _described(VllmParams)
    for name in sorted(SamplingParams.__struct_fields__, key=lambda name: name in UNAVAILABLE):
        harmless = ", ".join(f"`{value!r}`" for value in UNAVAILABLE.get(name, ()))
        yield (
            f"`{name}`",
            f"`{getattr(plain, name)!r}`",
            f"refused unless {harmless}" if harmless else said.get(name, "supported"),
        )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
