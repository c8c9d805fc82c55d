"""The shapes of attention's tiles. Pinned, not tuned at run time: a tile of other keys is another order of sums."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.runtime.cuda.kernels.device import for_data_centres, has_tensor_memory

SPLIT = 512
"""Keys that one program of decode takes before it leaves a state: 16 splits of a context of 8192 and 8 KV heads fill
the 132 multiprocessors of an H100, and a state of float32 is 1 / (2 SPLIT / group) of the bytes of the keys and values
in bfloat16 that it stands for: under 1 % for groups of up to 10 heads."""


MOST_COLUMNS = 256
"""Of a head."""


@dataclass(frozen=True)
class Launch:
    rows: int
    """Rows of queries: tokens times the query heads of one KV head."""
    warps: int
    stages: int
    """Of the pipeline. The keys and values of a tile are asked for after the numbers of its blocks have come: it takes
    five for them to have a whole tile's time to arrive, with three they are waited for at once (`cp.async.wait_group
    0` at the head of the loop)."""
    flat: bool = False
    """One loop over the tiles of all splits, which saves filling the pipeline for each (measured on an H200: 4 to 7 %
    of the time of 64 and 256 sequences, 1 to 3 % of prompts'), but takes the sums of those before along: where
    registers suffice for that."""
    turned: bool = False
    """Keys are the left operand of products, of which wgmma takes 64 rows, and queries the right one, of any number: a
    quarter of the operations where a KV head has up to 16 queries. The bits are the same."""


@dataclass(frozen=True)
class Tiles:
    columns: int
    """The head's, rounded up to a power of two, for tensor cores."""
    keys: int
    prompt: Launch
    decode: Launch
    """Of one token: as few rows as have the instructions of `prompt`, as many warps side by side in a row."""
    many: Launch
    """The same, for several waves of programs, where the cache has the queries' type: keys of another are converted in
    registers and multiplied from there as the left operand, and Triton then fetches no tile ahead."""


def tiles_for(head_dim: int, itemsize: int, cache_itemsize: int, capability: int) -> Tiles:
    """For queries of `itemsize` bytes an element, and keys and values of `cache_itemsize`.

    A thread has at most 255 registers of 4 bytes. In them it holds, of the tile's rows, the sums of the split at hand
    and of those before it (2 x columns), the scores (keys) and their weights (keys / 2), in float32: with 128 rows over
    256 threads, or 64 over 128, this is half of 2 x 128 + 64 + 32 for a head of 128 columns: 176. What is left is for
    addresses. Shared memory has the queries and two or more tiles of keys and values.

    Prompts: 128 rows, because a tile of keys is read from the L2 cache once for each tile of rows: 64 keys of 128
    columns are 32 KiB, which 128 rows use for 4.2 MFLOP; at 300 TFLOP/s that is 2.3 TB/s, at 64 rows it would be all
    that the cache gives. Decode: wgmma takes 64 rows of which a group of 4 or 8 heads fills few, but a tile's products
    (2.1 MFLOP, 0.3 us on a multiprocessor of an H100), exponentials (64 x 64, 0.15 us) and the rest (0.15 us) are less
    than the 0.9 us that its 32 KiB take at its share of 4.8 TB/s.

    Many sequences: in long runs an H200 lowers its clock, from 1.98 to 1.5 GHz, to stay within its 700 W, of which
    reading weights at 3.3 TB/s takes 550. So what is computed for nobody takes time: 256 sequences of Llama 3.1 8B take
    3 % less a step with `turned`. Fewer wait longer for each tile, as its maxima lie in several warps.

    `head_dim` is at most MOST_COLUMNS.
    """
    columns = max(16, 1 << (head_dim - 1).bit_length())
    flat = for_data_centres(capability) and not has_tensor_memory(capability)
    if itemsize == 4:
        # For tests and small models: no tensor core multiplies float32 as such.
        plain = Launch(16, 4, 1)
        return Tiles(columns, 32, plain, plain, plain)
    # An A100, H100 or B200 has 163 or 227 KiB of shared memory a multiprocessor, others 99.
    large = capability == 80 or for_data_centres(capability)
    stages = 5 if large else 3
    turned = Launch(64, 4, stages, flat, turned=True)
    if columns <= 64:
        # 32 KiB of keys and values as above, 3 x 64 + 2 x 32 + ... = 128 registers.
        decode = Launch(64, 4, stages, flat)
        return Tiles(columns, 128, Launch(128, 8, stages, flat), decode, turned if flat else decode)
    if columns == 128:
        prompt = Launch(128, 8, stages, flat)
        # mma.sync gives each warp rows of its own only in tiles that are not wider than high. With wgmma decode takes
        # 115,712 bytes: just what lets two programs share a multiprocessor.
        decode = Launch(64, 4, stages, flat) if for_data_centres(capability) else prompt
        return Tiles(columns, 64, prompt, decode, turned if flat else decode)
    # 64 rows over 256 threads; 16 KiB of keys, for three tiles of them and their values to fit.
    launch = Launch(64, 8, stages if large else 2, flat)
    return Tiles(columns, 16 if cache_itemsize == 4 else 32, launch, launch, launch)
