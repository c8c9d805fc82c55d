"""Speed of the matrix products alone: format x shape x batch -> ms, GB/s of weights, G multiply-adds/s, and what share
of the machine's limit that is, measured in the same run: the bandwidth for few rows, the arithmetic for many.

    python -m bench.kernels [--formats Q4_K,BF16] [--shapes 8192x2048] [--batch 1,16,512] [--threads 2]
        [--numerics fast]

Products are made by a program, as the engine makes them, threads' meeting and rows' conversion included. Weights are
random and rotate over enough copies (--megabytes) that none is still in a cache from its last use.

Writes OUTPUT.json and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.machine import Limits, arithmetic, describe, measure_limits, read_speed
from bench.harness.random_weights import random_weights
from bench.harness.report import markdown, number, preamble, write
from trivet import _native
from trivet.runtime.machine import usable_cores
from trivet.runtime.weights import NOT_WEIGHTS
from trivet.weights.formats import Format

LEAST_SECONDS = 0.3
FEW_ROWS = 64
"""More are multiplied for so long that where weights lie does not matter: by two matrices in turn."""
FORMATS = ",".join(f.name for f in Format if f not in NOT_WEIGHTS)


class Products:
    """A program that multiplies the same rows by one matrix after another, as the engine would."""

    def __init__(self, fmt: Format, rows: int, columns: int, megabytes: int, threads: int, numerics: str) -> None:
        data = random_weights(fmt, rows * columns).reshape(1, rows, -1)
        self.count = max(2, (megabytes << 20) // fmt.num_bytes((rows, columns)))
        values = [(0, columns), *[(1, rows)] * self.count]
        self.program = _native.Program(threads, values, "bf16", [], numerics)
        self.program.input(0)
        for product in range(1, self.count + 1):
            matrix = self.program.add_matrices(fmt.type_id, columns, data)
            self.program.linear(0, [(product, matrix, None)])
        self.program.output(self.count)
        self.columns = columns

    def seconds(self, rows: int) -> float:
        """Of one product: the best of some runs through all, in 0.3 s at least, after one to warm up. Whatever else
        runs on the machine only adds to it.
        """
        positions = np.arange(rows, dtype=np.int32)
        starts, lengths, tables = (np.array(x, np.int32) for x in ([0, rows], [rows], [[0]]))
        hidden = np.random.default_rng(1).standard_normal((rows, self.columns), np.float32)
        best = math.inf
        deadline = None
        while deadline is None or time.perf_counter() < deadline:
            start = time.perf_counter()
            self.program.run(positions, positions, starts, lengths, tables, positions[:1], hidden)
            if deadline is None:
                deadline = time.perf_counter() + LEAST_SECONDS
            else:
                best = min(best, time.perf_counter() - start)
        return best / self.count


def measured(
    fmt: Format, shape: tuple[int, int], batch: int, numerics: str, seconds: float, limits: Limits
) -> dict[str, Any]:
    rows, columns = shape
    size, products = fmt.num_bytes(shape), batch * rows * columns
    least = max(size / limits.read, products / limits.products(arithmetic(fmt, numerics, batch)))
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
    batches = sorted(map(int, args.batch.split(",")))
    with read_speed(args.threads) as reads:
        for form, shape in itertools.product(args.formats, args.shapes):
            for few, some in itertools.groupby(batches, lambda rows: rows <= FEW_ROWS):
                products = Products(form, *shape, args.megabytes if few else 0, args.threads, args.numerics)
                for batch in some:
                    before = reads()
                    seconds = products.seconds(batch)
                    now = replace(limits, read=max(before, reads()))
                    result = measured(form, shape, batch, args.numerics, seconds, now)
                    results.append(result)
                    print(
                        f"{form.name:8}{result['shape']:>12}{batch:7}{result['seconds'] * 1e3:10.3f}"
                        f"{result['bytes_per_second'] / 1e9:8.1f}{result['products_per_second'] / 1e9:8.0f}"
                        f"{result['of_limit']:10.0%}",
                        flush=True,
                    )
    if args.output:
        text = (
            f"# Matrix products alone\n\n{preamble(machine, str(limits))}\nThe best run in 0.3 s. Few rows: bytes "
            "of weights; more: multiply-adds. In brackets, the share of what arithmetic allows at best, and memory as "
            "fast as it was read before and after.\n\n"
            f"{table(results)}"
        )
        write(args.output, {"machine": machine, "results": results}, text)


if __name__ == "__main__":
    main()
