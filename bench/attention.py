"""Speed of attention alone over the paged cache: shape x cache type x context -> ms of a layer, GB/s of keys and
values, GFLOP/s; for one token (decoding) and for a piece of a prompt that ends at the context.

    python bench/attention.py [--shapes 15x5x64] [--types bf16,q8_0] [--contexts 512,8000] [--tokens 1,256] \\
        [--numerics fast]

The machine's limits are measured beside: bytes read and products made by the float32 matrix kernel at its best.
Several layers take turns, so that decoding finds nothing in a cache from its last use.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from trivet import _native
from trivet.weights.formats import Format

BLOCK_SIZE = 16


def best(work: Callable[[], object], least: float = 0.3) -> float:
    """Seconds, the best of those in `least` seconds, at least three: what else runs on the machine only adds."""
    work()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def limits(threads: int) -> tuple[float, float]:
    """Bytes read, and floating-point operations, a second."""
    rng = np.random.default_rng(0)

    def multiply(rows: int, columns: int, m: int) -> float:
        data = rng.standard_normal((rows, columns), np.float32).view(np.uint8).reshape(-1)
        matrix = _native.PackedMatrix(Format.F32.type_id, data, rows, columns)
        x = rng.standard_normal((m, columns), np.float32)
        return best(lambda: matrix.multiply(x, threads)) / (rows * columns)

    return 4 / multiply(16384, 1024, 1), 2 * 256 / multiply(512, 128, 256)


class Layers:
    """Layers of attention with a full cache."""

    def __init__(
        self, shape: tuple[int, int, int], cache: str, context: int, layers: int, threads: int, numerics: str
    ) -> None:
        heads, kv_heads, dim = shape
        widths = [heads * dim, kv_heads * dim, kv_heads * dim]
        slots = [*enumerate(widths), *[(3, widths[0])] * layers, (4, widths[0])]
        program = _native.Program(threads, slots, cache, [(kv_heads, dim)] * layers, numerics)
        rng = np.random.default_rng(0)
        for value, width in enumerate(widths):
            table = rng.standard_normal((BLOCK_SIZE, width), np.float32).view(np.uint8)
            program.embed(value, Format.F32.type_id, table, 1.0)
        for layer in range(layers):
            program.attention(0, 1, 2, 3 + layer, layer, heads, dim**-0.5, 0, 0.0, None)
        program.select(2 + layers, 3 + layers)
        row = np.zeros((1, 1, 4 * widths[0]), np.uint8)
        program.logits(3 + layers, program.add_matrices(Format.F32.type_id, widths[0], row, None), 0.0, 1.0)
        self.program, self.blocks = program, -(-context // BLOCK_SIZE)
        program.allocate_cache(self.blocks, BLOCK_SIZE)
        self.run(BLOCK_SIZE, BLOCK_SIZE)
        block = np.empty(program.cache_block_bytes(BLOCK_SIZE), np.uint8)
        program.read_block(0, block)
        for i in range(1, self.blocks):
            program.write_block(i, block)

    def run(self, tokens: int, context: int) -> None:
        """The last `tokens` of a sequence of `context`."""
        positions = np.arange(context - tokens, context, dtype=np.int32)
        starts, lengths, row = (np.array(x, np.int32) for x in ([0, tokens], [context], [tokens - 1]))
        table = np.arange(self.blocks, dtype=np.int32)[None]
        self.program.run(positions % BLOCK_SIZE, positions, starts, lengths, table, row)


def shapes(text: str) -> list[tuple[int, int, int]]:
    found = [tuple(map(int, shape.split("x"))) for shape in text.split(",")]
    if any(len(shape) != 3 for shape in found):
        raise ValueError
    return found  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", type=shapes, default="15x5x64,32x8x64", help="query heads x KV heads x columns of a head"
    )
    parser.add_argument("--types", default="f32,f16,bf16,q8_0", help="of the cache")
    parser.add_argument("--contexts", default="512,8000")
    parser.add_argument("--tokens", default="1,256", help="1 for decoding, more for a piece of a prompt")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--numerics", choices=("exact", "fast"), default="exact")
    args = parser.parse_args()

    bandwidth, peak = limits(args.threads)
    print(_native.system_info(), f"{bandwidth / 1e9:.1f} GB/s, {peak / 1e9:.1f} GFLOP/s with {args.threads} threads")
    print(f"{'shape':>10}{'type':>6}{'context':>9}{'tokens':>8}{'ms':>10}{'GB/s':>8}{'':>7}{'GFLOP/s':>9}{'':>7}")
    for heads, kv_heads, dim in args.shapes:
        shape = f"{heads}x{kv_heads}x{dim}"
        for cache in args.types.split(","):
            for context in map(int, args.contexts.split(",")):
                layers = Layers((heads, kv_heads, dim), cache, context, args.layers, args.threads, args.numerics)
                size = layers.program.cache_block_bytes(BLOCK_SIZE) / args.layers / BLOCK_SIZE * context
                for tokens in map(int, args.tokens.split(",")):
                    seconds = best(lambda n=tokens, c=context, x=layers: x.run(n, c)) / args.layers  # type: ignore[misc]
                    read = size / seconds
                    flops = 4 * heads * dim * sum(range(context - tokens + 1, context + 1)) / seconds
                    print(
                        f"{shape:>10}{cache:>6}{context:9}{tokens:8}{seconds * 1e3:10.3f}{read / 1e9:8.1f}"
                        f"{read / bandwidth:7.0%}{flops / 1e9:9.1f}{flops / peak:7.0%}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
