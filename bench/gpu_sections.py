"""The parts of bench/gpu.py, each run in a process of its own: what one breaks on the GPU is gone with it.

    python -m bench.gpu_sections NAME SHAPE FOLDER cuda|interpret

Prints each line of the table as JSON.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bench.gpu_shapes import SHAPES, Shape, write_model
from bench.gpu_table import Row, failure

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


def checks(run: Run) -> Rows:
    from bench import gpu_attention, gpu_elementwise, gpu_products, gpu_sampler
    from trivet.weights.formats import Format

    small = run.interpret
    products: dict[str, Any] = {"formats": (None, Format.Q4_K)}
    if small:
        products |= {"shapes": ((40, 256),), "hidden": 256, "width": 256, "counts": (1, 3)}
    device = run.device
    yield from guarded("attention", lambda: gpu_attention.checks(device, small))
    yield from guarded("elementwise", lambda: gpu_elementwise.checks(device, *((9, (256,), 8) if small else ())))
    yield from guarded("sampling", lambda: gpu_sampler.checks(device, *((300, 1, 2) if small else ())))
    yield from guarded("products", lambda: gpu_products.checks(device, **products))


def formats(run: Run) -> Rows:
    """The products that `checks` leaves out: their kernels take long to compile."""
    from bench import gpu_products
    from trivet.weights.formats import Format

    for fmt in [] if run.interpret else gpu_products.FORMATS:
        if fmt is not Format.Q4_K:
            yield from guarded(fmt.name, lambda: gpu_products.checks(run.device, formats=(fmt,)))  # noqa: B023


def kernels(run: Run) -> Rows:
    from bench import gpu_attention, gpu_elementwise, gpu_products, gpu_sampler

    limits, device = measured_limits(run), run.device
    yield limits_row(limits)
    if run.interpret:
        yield from guarded("elementwise", lambda: gpu_elementwise.timings(device, limits, 4, 256, 512))
        yield from guarded("sampling", lambda: gpu_sampler.timings(device, limits, 2, 300))
        yield from guarded(
            "products", lambda: gpu_products.timings(device, limits, (None,), {"small": (16, 256)}, (1,), 1)
        )
        return
    yield from guarded("attention", lambda: gpu_attention.timings(limits))
    yield from guarded("products", lambda: gpu_products.timings(device, limits))
    yield from guarded("elementwise", lambda: gpu_elementwise.timings(device, limits))
    yield from guarded("sampling", lambda: gpu_sampler.timings(device, limits))


def agreement(run: Run) -> Rows:
    from bench import gpu_agreement
    from trivet.weights.hub import resolve

    small: dict[str, Any] = {}
    if run.interpret:
        small = {"batches": (1, 2), "longest": 6, "tokens": 2, "max_model_len": 32, "max_num_batched_tokens": 16}
        small["num_blocks"] = 8
    yield from guarded("built-in model", lambda: gpu_agreement.rows(resolve(None), **small))


def measured_limits(run: Run) -> Any:
    from bench.gpu_model import Limits

    return Limits.measure("cpu", 4, 64) if run.interpret else Limits.measure("cuda")


def limits_row(limits: Any) -> Row:
    text = f"{limits.bandwidth / 1e12:.2f} TB/s read, {limits.flops / 1e12:.0f} TFLOP/s in bfloat16"
    return Row("this device, measured", text)


def model(run: Run, numerics: str = "exact") -> Rows:
    """The folder is written if it is not there."""
    if not (run.folder / "config.json").exists():
        write_model(run.shape, run.folder, run.device)
    return whole(run, run.folder, numerics, 2 * run.shape.product_weights)


def quantized(run: Run) -> Rows:
    """The same weights in Q4_K_M; quantising them is not timed."""
    from trivet.convert import as_gguf
    from trivet.weights import open_checkpoint
    from trivet.weights.export import export

    target = run.folder / "q4_k_m.gguf"
    if not target.exists():
        export(as_gguf(open_checkpoint(run.folder)), target.with_suffix(".part"), "Q4_K_M")
        target.with_suffix(".part").rename(target)
    embedding = open_checkpoint(target).tensors["token_embd.weight"].num_bytes
    return whole(run, target, "exact", target.stat().st_size - embedding)


def whole(run: Run, path: Path, numerics: str, product_bytes: int) -> Rows:
    from bench import gpu_agreement, gpu_model, gpu_peers
    from trivet.engine.config import EngineConfig
    from trivet.engine.engine import Engine

    limits, shape = measured_limits(run), run.shape
    yield limits_row(limits)
    largest = max(run.batches)
    config: dict[str, Any] = {
        "device": "cuda", "numerics": numerics, "enable_prefix_caching": False, "max_num_seqs": largest,
        "max_model_len": run.prompt + 64, "max_num_batched_tokens": 16 if run.interpret else 8192,
    }  # fmt: skip
    if run.interpret:
        config["num_blocks"] = 32
    Engine(EngineConfig(model=str(path), **config)).close()  # Compiles kernels, and brings the files into memory.
    engine, rows = gpu_model.load(path, **config)
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
    if not run.interpret:
        yield from guarded("host", lambda: iter([gpu_model.host_share(engine, 64, run.context)]))
    if numerics == "exact":
        batches = (1, 2) if run.interpret else (1, 8, 64)
        yield from guarded(
            "company", lambda: gpu_agreement.company(engine, "model", batches, 8, 2 if run.interpret else 16)
        )
    engine.close()


def transformers(run: Run) -> Rows:
    from bench import gpu_peers

    if not (run.folder / "config.json").exists():
        write_model(run.shape, run.folder, run.device)
    return gpu_peers.transformers_rows(run.folder, run.prompt, run.batches, run.context, run.device)


def vllm(run: Run) -> Rows:
    from bench import gpu_peers

    return gpu_peers.vllm_rows(run.folder, run.prompt, run.batches, run.context)


SECTIONS: dict[str, Callable[[Run], Rows]] = {
    "checks": checks,
    "agreement": agreement,
    "model": model,
    "model fast": lambda run: model(run, "fast"),
    "kernels": kernels,
    "transformers": transformers,
    "vllm": vllm,
    "quantized": quantized,
    "formats": formats,
}


def interpreted(name: str) -> None:
    """Triton's interpreter in place of a GPU; in whole models, kernels in plain PyTorch, since it takes long."""
    from tests.runtime.cuda import interpreter

    interpreter.repair()
    if name in ("checks", "kernels"):
        return
    from tests.runtime.cuda import reference
    from trivet.runtime import loader
    from trivet.runtime.cuda import program, runtime, weights
    from trivet.runtime.cuda.device import HostDevice

    for kernel in reference.KERNELS:
        setattr(program, kernel.__name__, kernel)
    runtime.DeviceSampler, runtime.CudaDevice = reference.DeviceSampler, HostDevice  # type: ignore[misc, assignment]
    weights.FORMATS = {}  # type: ignore[assignment]
    loader._usable = lambda wanted: "cuda"
    from bench import gpu_model

    gpu_model.WARM_UP = 1


def main() -> None:
    name, shape, folder, device = sys.argv[1:]
    if device == "interpret":
        interpreted(name)
    run = Run(SHAPES[shape], Path(folder), device == "interpret")
    lines = os.fdopen(os.dup(1), "w")  # Whatever else is printed goes where errors go.
    os.dup2(2, 1)
    for row in guarded(name, lambda: SECTIONS[name](run)):
        lines.write(msgspec.json.encode(asdict(row)).decode() + "\n")
        lines.flush()


if __name__ == "__main__":
    main()
