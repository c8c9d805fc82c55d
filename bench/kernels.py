"""Speed of the matrix products alone: format x shape x batch -> ms, GB/s of weights, GFLOP/s.

    python bench/kernels.py [--formats Q4_K,BF16] [--shapes 8192x2048] [--batch 1,16,512] [--threads 2]

Weights are random and rotate over enough copies (--megabytes) that none is still in a cache from its last use.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from trivet import _native
from trivet.weights.formats import Format

FORMATS = "F32,F16,BF16,Q8_0,Q4_0,Q4_K,Q6_K"


def random_matrices(fmt: Format, rows: int, columns: int, megabytes: int) -> list[_native.PackedMatrix]:
    size = fmt.num_bytes((rows, columns))
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    copies = max(2, (megabytes << 20) // size)
    return [_native.PackedMatrix(fmt.type_id, data, rows, columns) for _ in range(copies)]


def seconds_per_product(matrices: list[_native.PackedMatrix], x: np.ndarray, threads: int) -> float:
    """Median over rounds of about 0.2 s in all, after one round to warm up."""
    times = []
    deadline = None
    while deadline is None or time.perf_counter() < deadline or len(times) < 3:
        for matrix in matrices:
            start = time.perf_counter()
            matrix.multiply(x, threads)
            times.append(time.perf_counter() - start)
        if deadline is None:
            times.clear()
            deadline = time.perf_counter() + 0.2
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--shapes", default="8192x2048,2048x8192", help="rows x columns of the weights")
    parser.add_argument("--batch", default="1,4,16,64,256", help="rows of activations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=256, help="weights to rotate over")
    args = parser.parse_args()

    print(_native.system_info())
    print(f"{'format':7}{'shape':>12}{'batch':>7}{'ms':>10}{'GB/s':>8}{'GFLOP/s':>9}")
    for name in args.formats.split(","):
        for shape in args.shapes.split(","):
            rows, columns = map(int, shape.split("x"))
            matrices = random_matrices(Format[name], rows, columns, args.megabytes)
            for batch in map(int, args.batch.split(",")):
                x = np.random.default_rng(1).standard_normal((batch, columns), dtype=np.float32)
                seconds = seconds_per_product(matrices, x, args.threads)
                gigabytes = matrices[0].bytes / seconds / 1e9
                gigaflops = 2 * batch * rows * columns / seconds / 1e9
                row = f"{name:7}{shape:>12}{batch:7}{seconds * 1e3:10.3f}{gigabytes:8.1f}{gigaflops:9.1f}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
