"""Speed of the matrix products alone: format x shape x batch -> ms, GB/s of weights, products per cycle of a core.

    python bench/kernels.py [--formats Q4_K,BF16] [--shapes 8192x2048] [--batch 1,16,512] [--threads 2]

Weights are random and rotate over enough copies (--megabytes) that none is still in a cache from its last use.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from trivet import _native
from trivet.runtime.weights import NOT_WEIGHTS
from trivet.weights.formats import Format

FORMATS = ",".join(f.name for f in Format if f not in NOT_WEIGHTS)


def random_matrices(fmt: Format, rows: int, columns: int, megabytes: int) -> list[_native.PackedMatrix]:
    size = fmt.num_bytes((rows, columns))
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    copies = max(2, (megabytes << 20) // size)
    return [_native.PackedMatrix(fmt.type_id, data, rows, columns) for _ in range(copies)]


def seconds_per_product(matrices: list[_native.PackedMatrix], x: np.ndarray, threads: int) -> float:
    """The best of about 0.3 s, after one round to warm up: whatever else runs on the machine only adds to it."""
    times = []
    deadline = None
    while deadline is None or time.perf_counter() < deadline or len(times) < 3:
        for matrix in matrices:
            start = time.perf_counter()
            matrix.multiply(x, threads)
            times.append(time.perf_counter() - start)
        if deadline is None:
            times.clear()
            deadline = time.perf_counter() + 0.3
    return min(times)


def clock() -> float:
    """Cycles per second of a core, as the system says."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return float(line.split(":")[1]) * 1e6
    raise SystemExit("the system does not say its clock; give --ghz")


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
    parser.add_argument("--shapes", type=shapes, default="8192x2048,2048x8192", help="rows x columns of the weights")
    parser.add_argument("--batch", default="1,4,16,64,256", help="rows of activations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ghz", type=float, help="clock of a core, where the system does not say it")
    parser.add_argument("--megabytes", type=int, default=256, help="weights to rotate over")
    args = parser.parse_args()

    cycles = args.ghz * 1e9 if args.ghz else clock()
    print(_native.system_info(), f"{cycles / 1e9:.2f} GHz")
    print(f"{'format':8}{'shape':>12}{'batch':>7}{'ms':>10}{'GB/s':>8}{'MAC/cycle':>11}")
    for form in args.formats:
        for rows, columns in args.shapes:
            matrices = random_matrices(form, rows, columns, args.megabytes)
            for batch in map(int, args.batch.split(",")):
                x = np.random.default_rng(1).standard_normal((batch, columns), dtype=np.float32)
                seconds = seconds_per_product(matrices, x, args.threads)
                gigabytes = matrices[0].bytes / seconds / 1e9
                products = batch * rows * columns / seconds / cycles / args.threads
                row = f"{form.name:8}{f'{rows}x{columns}':>12}{batch:7}{seconds * 1e3:10.3f}"
                print(f"{row}{gigabytes:8.1f}{products:11.2f}", flush=True)


if __name__ == "__main__":
    main()
