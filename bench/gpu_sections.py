"""The parts of bench/gpu.py, each run in a process of its own: what one breaks on the GPU is gone with it.

    python -m bench.gpu_sections NAME SHAPE FOLDER cuda|interpret

Prints each line of the table as JSON.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bench import gpu_interpreter
from bench.gpu_shapes import SHAPES, Shape, write_model, write_quantized
from bench.gpu_table import Row, failure, untargeted

Rows = Iterator[Row]


@dataclass(frozen=True)
class Run:
    """What to measure. `interpret` is on torch's CPU, where speeds mean nothing."""

    shape: Shape
    folder: Path
    interpret: bool

    @property
    def device(self) -> str:
        return "cpu" if self.interpret else "cuda"

    @property
    def batches(self) -> list[int]:
        return [1, 2] if self.interpret else [1, 64, 256]

    @property
    def context(self) -> int:
        return 24 if self.interpret else 1024

    @property
    def prompt(self) -> int:
        return 16 if self.interpret else 8192


def guarded(name: str, rows: Callable[[], Rows]) -> Rows:
    """What fails is a line of the table, and what comes after it is still measured."""
    try:
        yield from rows()
    except Exception as error:
        traceback.print_exc()
        yield failure(name, error)
        # The frames hold tensors.
        traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attention_checks(run: Run, some: slice) -> Rows:
    from bench import gpu_attention

    shapes = gpu_attention.TINY if run.interpret else gpu_attention.SHAPES
    for shape, block_size in [*shapes.items()][some]:
        yield from guarded(
            f"attention {shape}",
            lambda: gpu_attention.checks(run.device, shape, block_size, run.interpret),  # noqa: B023
        )


def product_checks(run: Run, formats: Sequence[str]) -> Rows:
    from bench import gpu_products
    from trivet.weights.formats import Format

    options: dict[str, Any] = {}
    if run.interpret:
        options = {"shapes": ((40, 64),), "hidden": 64, "width": 64, "counts": (1, 3)}
        formats = [name for name in formats if Format[name].block_size < 256]
    for name in formats:
        fmt = None if name == "BF16" else Format[name]
        yield from guarded(name, lambda: gpu_products.checks(run.device, formats=(fmt,), **options))  # noqa: B023


def elementwise_checks(run: Run) -> Rows:
    from bench import gpu_elementwise

    return gpu_elementwise.checks(run.device, *((9, (256,), 8) if run.interpret else ()))


def sampling_checks(run: Run) -> Rows:
    from bench import gpu_sampler

    return gpu_sampler.checks(run.device, *((300, 1, 2) if run.interpret else ()))


def kernels(run: Run) -> Rows:
    from bench import gpu_attention, gpu_elementwise, gpu_products, gpu_sampler

    limits, device = measured_limits(run), run.device
    yield limits_row(limits)
    if run.interpret:
        heads = gpu_attention.Heads(4, 2, 64)
        few = ((1, 32),)
        yield from guarded("attention", lambda: gpu_attention.timings(device, limits, heads, few, few, 1))
        yield from guarded("elementwise", lambda: gpu_elementwise.timings(device, limits, 4, 256, 512))
        yield from guarded("sampling", lambda: gpu_sampler.timings(device, limits, 2, 300))
        yield from guarded(
            "products", lambda: gpu_products.timings(device, limits, (None,), {"small": (16, 256)}, (1,), 1)
        )
        return
    yield from guarded("attention", lambda: gpu_attention.timings(device, limits))
    yield from guarded("elementwise", lambda: gpu_elementwise.timings(device, limits))
    yield from guarded("sampling", lambda: gpu_sampler.timings(device, limits))
    # The last, because their many kernels take longest to compile.
    yield from guarded("products", lambda: gpu_products.timings(device, limits))


def agreement(run: Run) -> Rows:
    from bench import gpu_agreement
    from trivet.weights.hub import resolve

    small: dict[str, Any] = {"num_blocks": 1024}
    if run.interpret:
        small = {"batches": (1, 2), "longest": 6, "tokens": 2, "max_model_len": 32, "max_num_batched_tokens": 16}
        small["num_blocks"] = 8
    return gpu_agreement.rows(resolve(None), **small)


def measured_limits(run: Run) -> Any:
    from bench.gpu_model import Limits

    return Limits.measure("cpu", 4, 64) if run.interpret else Limits.measure("cuda")


def limits_row(limits: Any) -> Row:
    text = f"{limits.bandwidth / 1e12:.2f} TB/s read, {limits.flops / 1e12:.0f} TFLOP/s in bfloat16"
    return Row("this device, measured", text)


def ensure_model(run: Run) -> bool:
    """Writes the model if it is not there; whether it was not."""
    missing = not (run.folder / "config.json").exists()
    if missing:
        write_model(run.shape, run.folder, run.device)
    return missing


def first_start(run: Run) -> Rows:
    """Writes the model if it is not there, and compiles what it takes. The cache is small: others run beside."""
    from trivet.engine.config import EngineConfig
    from trivet.engine.engine import Engine

    began = time.perf_counter()
    if ensure_model(run):
        yield Row("write the model", f"{time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    settings = config(run) | {"max_model_len": run.prompt, "num_blocks": -(-run.prompt // 16)}
    Engine(EngineConfig(model=str(run.folder), **settings)).close()
    yield Row("first start, beside other sections", f"{time.perf_counter() - began:.1f} s")


def model(run: Run, numerics: str = "exact") -> Rows:
    return whole(run, run.folder, numerics, 2 * run.shape.product_weights)


def quantized(run: Run) -> Rows:
    """The same shape in Q4_K_M, of which no speeds are asked."""
    from trivet.weights import open_checkpoint

    ensure_model(run)
    target = run.folder / "q4_k_m.gguf"
    if not target.exists():
        write_quantized(run.folder, target, "Q4_K_M")
    embedding = open_checkpoint(target).tensors["token_embd.weight"].num_bytes
    yield from map(untargeted, whole(run, target, "exact", target.stat().st_size - embedding))


def setting(run: Run, name: str, cache_bytes: int, **settings: Any) -> Rows:
    """Logits and answers with another setting beside those of `model`, of which they have the bits unless the cache is
    in float8, and decoding. `cache_bytes`: of a number in the cache."""
    from bench import gpu_agreement, gpu_model

    ensure_model(run)
    limits, shape = measured_limits(run), run.shape
    yield limits_row(limits)
    lengths, tokens = ((40, 25, 18), 3) if run.interpret else ((1200, 700, 530), 16)
    engine, _ = gpu_model.load(run.folder, **config(run))
    expected = gpu_agreement.Answers.of(engine, lengths, tokens)
    engine.close()
    engine, _ = gpu_model.load(run.folder, **config(run), **settings)
    tolerance = gpu_agreement.FP8_TOLERANCE if cache_bytes == 1 else 0
    yield from gpu_agreement.beside(name, gpu_agreement.Answers.of(engine, lengths, tokens), expected, tolerance)
    for batch in run.batches:
        row = gpu_model.decode(
            *(engine, shape, 2 * shape.product_weights, limits, batch, run.context),
            steps=2 if run.interpret else 32,
            cache_bytes=shape.cache_bytes * cache_bytes // 2,
        )
        yield untargeted(replace(row, name=f"{name}: {row.name}"))
    batches = (1, 2) if run.interpret else (1, 8, 64)
    yield from gpu_agreement.company(engine, name, batches, 8, 2 if run.interpret else 16)
    engine.close()


def memory(run: Run) -> Rows:
    """With the smallest shape that there is a reason to serve."""
    from bench import gpu_memory

    if not run.interpret:
        run = replace(run, shape=SHAPES["llama-3.2-1b"], folder=run.folder / "llama-3.2-1b")
    ensure_model(run)
    for name in gpu_memory.TINY if run.interpret else gpu_memory.STARTS:
        yield from guarded(
            f"no memory for {name}",
            lambda: iter([gpu_memory.row(name, run.folder, run.interpret)]),  # noqa: B023
        )


def config(run: Run) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "device": "cuda", "enable_prefix_caching": False, "max_num_seqs": max(run.batches),
        "max_model_len": run.prompt + 64, "max_num_batched_tokens": 16 if run.interpret else 8192,
    }  # fmt: skip
    return settings | {"num_blocks": 32} if run.interpret else settings


def whole(run: Run, path: Path, numerics: str, product_bytes: int) -> Rows:
    """Of files that were written or read lately, and so are in memory."""
    from bench import gpu_agreement, gpu_model, gpu_peers

    limits, shape = measured_limits(run), run.shape
    yield limits_row(limits)
    engine, rows = gpu_model.load(path, numerics=numerics, **config(run))
    yield from rows
    if path.is_dir() and numerics == "exact":
        tokens = np.random.default_rng(2).integers(0, shape.vocab, 16 if run.interpret else 64)
        np.savez(path / gpu_peers.SAVED, tokens=tokens, logits=gpu_agreement.logits(engine, tokens))
    steps = 2 if run.interpret else 64
    for batch in run.batches:
        yield from guarded(
            f"decode {batch} x {run.context}",
            lambda: iter([gpu_model.decode(engine, shape, product_bytes, limits, batch, run.context, steps)]),  # noqa: B023
        )
    yield from guarded(
        f"prefill {run.prompt}",
        lambda: iter([gpu_model.prefill(engine, shape, limits, run.prompt, 1 if run.interpret else 5)]),
    )
    for batch in [] if run.interpret else run.batches:
        yield from guarded("host", lambda: gpu_model.host_share(engine, batch, run.context, batch == 64))  # noqa: B023
    if not run.interpret:
        yield from guarded("kernels", lambda: iter([gpu_model.prompt_kernels(engine, run.prompt)]))
    if numerics == "exact":
        batches = (1, 2) if run.interpret else (1, 8, 64)
        yield from guarded(
            "company", lambda: gpu_agreement.company(engine, "model", batches, 8, 2 if run.interpret else 16)
        )
    engine.close()


def transformers(run: Run) -> Rows:
    from bench import gpu_peers

    ensure_model(run)
    return gpu_peers.transformers_rows(run.folder, run.prompt, run.batches, run.context, run.device)


def vllm(run: Run) -> Rows:
    from bench import gpu_peers

    return gpu_peers.vllm_rows(run.folder, run.prompt, run.batches, run.context)


BLOCKS = ("Q4_K Q5_K", "Q6_K Q8_0", "Q4_0 Q4_1", "Q5_0 Q5_1", "IQ4_NL IQ4_XS MXFP4")

SECTIONS: dict[str, Callable[[Run], Rows]] = {
    "attention checks": lambda run: attention_checks(run, slice(2)),
    "attention checks, other heads": lambda run: attention_checks(run, slice(2, None)),
    "product checks": lambda run: product_checks(run, ["BF16", "F16"]),
    **{f"product checks, {some}": partial(product_checks, formats=some.split()) for some in BLOCKS},
    "elementwise checks": elementwise_checks,
    "sampling checks": sampling_checks,
    "agreement": agreement,
    "first start": first_start,
    "model": model,
    "model fast": lambda run: model(run, "fast"),
    "kernels": kernels,
    "transformers": transformers,
    "vllm": vllm,
    "quantized": quantized,
    "fp8 cache": partial(setting, name="fp8 cache", cache_bytes=1, kv_cache_dtype="fp8"),
    "eager": partial(setting, name="eager", cache_bytes=2, enforce_eager=True),
    "memory": memory,
}


def main() -> None:
    name, shape, folder, device = sys.argv[1:]
    if device == "interpret":
        gpu_interpreter.install(kernels=name == "kernels" or name.split(",")[0].endswith("checks"))
    run = Run(SHAPES[shape], Path(folder), device == "interpret")
    lines = os.fdopen(os.dup(1), "w")  # Whatever else is printed goes where errors go.
    os.dup2(2, 1)
    for row in guarded(name, lambda: SECTIONS[name](run)):
        lines.write(msgspec.json.encode(asdict(row)).decode() + "\n")
        lines.flush()


if __name__ == "__main__":
    main()
