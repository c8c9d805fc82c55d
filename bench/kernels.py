"""Speed of the matrix products alone: format x shape x batch -> ms, GB/s of weights, G multiply-adds/s, and what share
of the machine's limit that is, measured in the same run: the bandwidth for few rows, the arithmetic for many.

    python -m bench.kernels [--formats Q4_K,BF16] [--shapes 8192x2048] [--batch 1,16,512] [--threads 2]
        [--numerics fast]

Weights are random and rotate over enough copies (--megabytes) that none is still in a cache from its last use.

Writes OUTPUT.json and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.machine import Limits, describe, measure_limits
from bench.harness.random_weights import FLOATS, random_weights
from bench.harness.report import markdown, number, preamble, write
from trivet import _native
from trivet.runtime.machine import usable_cores
from trivet.runtime.weights import NOT_WEIGHTS
from trivet.weights.formats import Format

FORMATS = ",".join(f.name for f in Format if f not in NOT_WEIGHTS)


def random_matrices(fmt: Format, rows: int, columns: int, megabytes: int) -> list[_native.PackedMatrix]:
    size = fmt.num_bytes((rows, columns))
    data = random_weights(fmt, rows * columns)
    copies = max(2, (megabytes << 20) // size)
    return [_native.PackedMatrix(fmt.type_id, data, rows, columns) for _ in range(copies)]


def seconds_per_product(matrices: list[_native.PackedMatrix], x: np.ndarray, threads: int, numerics: str) -> float:
    """The best of about 0.3 s, after one round to warm up: whatever else runs on the machine only adds to it."""
    times = []
    deadline = None
    while deadline is None or time.perf_counter() < deadline or len(times) < 3:
        for matrix in matrices:
            start = time.perf_counter()
            matrix.multiply(x, threads, numerics)
            times.append(time.perf_counter() - start)
        if deadline is None:
            times.clear()
            deadline = time.perf_counter() + 0.3
    return min(times)


def measured(
    fmt: Format, shape: tuple[int, int], batch: int, numerics: str, seconds: float, limits: Limits
) -> dict[str, Any]:
    """Fast numerics multiply floats on AMX."""
    floats = fmt in FLOATS or (numerics == "fast" and _native.system_info()["isa"] == "amx")
    rows, columns = shape
    size, products = fmt.num_bytes(shape), batch * rows * columns
    least = max(size / limits.read, products / (limits.float if floats else limits.int8))
    return {
        "format": fmt.name,
        "shape": f"{rows}x{columns}",
        "batch": batch,
        "seconds": seconds,
        "bytes_per_second": size / seconds,
        "products_per_second": products / seconds,
        "of_limit": least / seconds,
    }


def table(results: list[dict[str, Any]]) -> str:
    """A line for each format and shape, for each batch its speed in what limits it and the share of the limit."""
    batches = sorted({result["batch"] for result in results})
    lines: dict[tuple[str, str], list[str]] = {}
    for result in results:
        line = lines.setdefault((result["format"], result["shape"]), [])
        speed = result["bytes_per_second"] if result["batch"] == batches[0] else result["products_per_second"]
        line.append(f"{number(speed / 1e9)} ({result['of_limit']:.0%})")
    head = [f"{batch} row{'s' * (batch > 1)}, G{'/s' if i else 'B/s'}" for i, batch in enumerate(batches)]
    return markdown(("format", "shape", *head), ((*key, *line) for key, line in lines.items()))


def formats(text: str) -> list[Format]:
    for name in text.split(","):
        if name not in FORMATS.split(","):
            raise argparse.ArgumentTypeError(f"{name!r} is none of {FORMATS}")
    return [Format[name] for name in text.split(",")]


def shapes(text: str) -> list[tuple[int, int]]:
    found = [tuple(map(int, shape.split("x"))) for shape in text.split(",")]
    if any(len(shape) != 2 for shape in found):
        raise ValueError
    return found  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", type=formats, default=FORMATS)
    parser.add_argument("--shapes", type=shapes, default="8192x2048", help="rows x columns of the weights")
    parser.add_argument("--batch", default="1,8,32,512", help="rows of activations")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--numerics", choices=("exact", "fast"), default="exact")
    parser.add_argument("--megabytes", type=int, default=256, help="weights to rotate over")
    parser.add_argument("--output", type=Path, help="without an ending")
    args = parser.parse_args()

    limits = measure_limits(args.threads)
    machine = describe(limits, args.threads)
    print(limits)
    print(f"{'format':8}{'shape':>12}{'batch':>7}{'ms':>10}{'GB/s':>8}{'G/s':>8}{'of limit':>10}")
    results = []
    for form in args.formats:
        for shape in args.shapes:
            matrices = random_matrices(form, *shape, args.megabytes)
            for batch in sorted(map(int, args.batch.split(","))):
                x = np.random.default_rng(1).standard_normal((batch, shape[1]), dtype=np.float32)
                seconds = seconds_per_product(matrices, x, args.threads, args.numerics)
                result = measured(form, shape, batch, args.numerics, seconds, limits)
                results.append(result)
                print(
                    f"{form.name:8}{result['shape']:>12}{batch:7}{result['seconds'] * 1e3:10.3f}"
                    f"{result['bytes_per_second'] / 1e9:8.1f}{result['products_per_second'] / 1e9:8.0f}"
                    f"{result['of_limit']:10.0%}",
                    flush=True,
                )
    if args.output:
        text = (
            f"# Matrix products alone\n\n{preamble(machine, str(limits))}\nThe best of 0.3 s for each. Few rows: bytes "
            "of weights; more: multiply-adds. In brackets, the share of what memory and arithmetic allow at best.\n\n"
            f"{table(results)}"
        )
        write(args.output, {"machine": machine, "results": results}, text)


if __name__ == "__main__":
    main()
