"""Products with weights: y = x W^T + b.

"exact" numerics (the default) are this project's own kernels for all numbers of rows, with one order of reduction
(tiles.py; bulk.py for dense weights on Hopper, where K is in one part): a row's bits do not depend on the rows beside
it. "fast" leaves dense products to PyTorch's library, which chooses a kernel, and with it an order, by the number of
rows.

Quantised weights are unpacked inside the product for up to FUSED_ROWS rows. For more, a panel of them at a time is
dequantised into a buffer and multiplied as a dense matrix, with the same bits. A product of T rows that unpacks inside
does so once for each tile of 64 rows, about six instructions a weight: at 64 lanes a clock and multiprocessor some 2 ms
for 8e9 weights on 132 multiprocessors of 1.7 GHz, as long as reading their 4.5 GB takes. Dequantising apart writes and
reads 4 bytes a weight besides, through the L2 cache (5.5 TB/s, 6 ms), which pays from about the third tile on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import triton
import triton.language as tl

from trivet.runtime.cuda.kernels import bulk, device
from trivet.runtime.cuda.kernels.bulk import Tile, usable
from trivet.runtime.cuda.kernels.matrix import Matrix
from trivet.runtime.cuda.kernels.quantized.blocks import UNIT
from trivet.runtime.cuda.kernels.quantized.dequantize import dequantize
from trivet.runtime.cuda.kernels.tiles import tile_product

NUMERICS = ("exact", "fast")

FUSED_ROWS = 128

PANEL = 24 << 20
"""Bytes of dequantised weights at a time: they are read back from the L2 cache (50 MB on H100 and H200). More where the
tiles of 128 x 128 are fewer than multiprocessors."""


PROGRAMS = 128
"""How many programs a product should have at least: about one for each multiprocessor (132)."""


def linear(
    x: torch.Tensor,
    matrix: Matrix,
    bias: torch.Tensor | None = None,
    *,
    numerics: str = "exact",
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [T, K], rows at any distance, times W [N, K]: [T, N] in `dtype` (that of x), rounded once; in `out`, if given.
    bias: [N]."""
    blocks = matrix.values
    if isinstance(blocks, torch.Tensor):
        if numerics == "fast" and blocks.dtype == x.dtype:
            y = library_product(x, blocks, bias, dtype)
            return y if out is None else out.copy_(y)
        return product(x, matrix, bias, dtype, out)
    if len(x) <= FUSED_ROWS:
        return product(x, matrix, bias, dtype, out)
    y = x.new_empty(len(x), matrix.rows, dtype=dtype or x.dtype) if out is None else out
    step, parts = panel_rows(matrix, len(x), x.element_size()), splits(matrix, x.dtype)
    for begin in range(0, matrix.rows, step):
        part = slice(begin, min(begin + step, matrix.rows))
        panel = dequantize(blocks, x.dtype, part.start, part.stop)
        part_bias = None if bias is None else bias[part]
        if numerics == "fast":
            y[:, part] = library_product(x, panel, part_bias, dtype)
        else:
            product(x, Matrix(panel), part_bias, dtype, out=y[:, part], parts=parts, like=min(step, matrix.rows))
    return y


def panel_rows(matrix: Matrix, tokens: int, itemsize: int) -> int:
    """Rows of packed weights that are dequantised at a time."""
    resident = PANEL // (matrix.columns * itemsize)
    return 128 * max(resident // 128, triton.cdiv(PROGRAMS, triton.cdiv(tokens, 128)))


def library_product(
    x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype | None
) -> torch.Tensor:
    y = torch.nn.functional.linear(x, weights, None if bias is None else bias.to(x.dtype))
    return y if dtype is None else y.to(dtype)


def splits(matrix: Matrix, dtype: torch.dtype) -> int:
    """In how many parts K is cut: of the matrix and the device alone, for it is part of a result's order of summation.

    As many as give PROGRAMS programs of 64 rows, of at least 512 columns each: one program loads about 60 KB ahead, so
    one on each multiprocessor has far more in flight than bandwidth times latency (3.35 TB/s x 700 ns / 132 = 18 KB).
    Those that unpack wait for arithmetic besides, and should be two. What Hopper's copy engine loads is more, and needs
    no parts.
    """
    if isinstance(matrix.values, torch.Tensor):
        if usable(matrix.values, dtype):
            return 1
        wanted = PROGRAMS
    else:
        wanted = 2 * PROGRAMS
    parts = 1
    while parts < 8 and triton.cdiv(matrix.rows, 64) * parts < wanted and matrix.columns >= 1024 * parts:
        parts *= 2
    return parts


def halved(matrix: Matrix, dtype: torch.dtype) -> bool:
    """Whether each weight is multiplied with rows of `dtype` as two halves (tiles.py)."""
    return matrix.planes[0].dtype == torch.float16 and dtype == torch.bfloat16


def tile(matrix: Matrix, tokens: int, dtype: torch.dtype, parts: int, rows: int) -> Tile:
    """The tile of a product with rows of `dtype`, of as many rows of weights. No result depends on it.

    A stage of the pipeline holds (rows + tokens) x columns values of 2 bytes in shared memory (227 KB), or of packed
    blocks rows x 128 bytes (256 for Q8_0) and tokens x 512 bytes.
    """
    values = matrix.planes[0]
    arch, halves = device.capability(values.device), halved(matrix, dtype)
    large = device.for_data_centres(arch)
    if torch.float32 in (dtype, values.dtype):  # without tensor cores
        return Tile(32 if device.has_tensor_memory(arch) else 64, 16 if tokens <= 16 else 32, 32, 4, 2)
    if matrix.format != "dense":
        # Few tokens: 8 KB of weights and up to 8 KB of activations a stage: 48 KB, four programs a multiprocessor.
        # More: the activations that a program loads for its weights (32 KB a unit) weigh less over 128 rows.
        # Not 8 tokens, which take a tenth less: Triton takes mma.sync for them on Hopper, and on an H200 a few bits
        # were not those of wgmma.
        if tokens <= 16:
            return Tile(64, 16, UNIT, 4, 3)
        if tokens <= 32 or device.has_tensor_memory(arch):  # which has room for no more of a unit's 8 or 16 products
            return Tile(64, 32, UNIT, 4, 3)
        return Tile(128, 64, UNIT, 8, 2) if large else Tile(64, 64, UNIT, 4, 2)
    if halves and (tokens <= 64 or not large):  # mma.sync needs registers for both
        return Tile(64, min(max(16, triton.next_power_of_2(tokens)), 64), 64, 4, 5 if tokens > 32 else 8)
    if tokens <= 16:
        return Tile(64, 16, 128, 4, 5)  # 20 KB a stage, two programs a multiprocessor
    if tokens <= 32:
        return Tile(64, 32, 128, 4, 4)
    if tokens <= 64:
        # Activations come from L2 once for every `rows`: at 64 as many bytes as weights, at 128 half as many.
        wide = triton.cdiv(rows, 128) * parts >= PROGRAMS
        return Tile(128, 64, 64, 8, 4) if wide else Tile(64, 64, 64, 4, 5)
    # Bound by arithmetic. 128 x 256 reads the least shared memory for each operation, and takes 128 registers of each
    # thread for its sums: where those of several parts of K are kept beside them, 128 x 128.
    # mma.sync needs registers for its operands, too.
    if tokens <= 512 or parts > 1 or not large or halves:
        return Tile(128, 128, 64, 8, 4 if large else 3)
    return Tile(128, 256, 64, 8, 3)


PARALLEL_ROWS = 256
"""Up to so many rows the parts of K are programs of their own, whose sums a second kernel adds; beyond, tiles suffice
to fill the chip, and each program takes all parts one after the other."""


def product(
    x: torch.Tensor,
    matrix: Matrix,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
    parts: int | None = None,
    like: int | None = None,
) -> torch.Tensor:
    """y [T, N] by the kernel; into `out`, whose rows may be at any distance. `like`: for how many rows of weights the
    kernel is chosen, if not for those of the matrix."""
    tokens, rows, columns = len(x), matrix.rows, matrix.columns
    y = x.new_empty(tokens, rows, dtype=dtype or x.dtype) if out is None else out
    if not tokens:
        return y
    parts = parts or splits(matrix, x.dtype)
    part_units = triton.cdiv(triton.cdiv(columns, UNIT), parts)
    if isinstance(matrix.values, torch.Tensor) and usable(matrix.values, x.dtype):
        t = bulk.tile(like or rows, tokens, parts, x.device)
        bulk.bulk_product(x, matrix.values, bias, y, t, parts, part_units * UNIT)
        return y
    t = tile(matrix, tokens, x.dtype, parts, like or rows)
    together = parts > 1 and tokens <= PARALLEL_ROWS
    target = x.new_empty(parts, tokens, rows, dtype=torch.float32) if together else y
    grid = (t.count(rows, tokens), parts if together else 1)
    product_kernel[grid](
        x,
        *matrix.planes,
        None if together else bias,
        target,
        tokens,
        rows,
        columns,
        x.stride(0),
        target.stride(-2),
        part_units,
        PARTS=parts,
        TOGETHER=together,
        FORMAT=matrix.format,
        EVEN=columns % UNIT == 0,
        BN=t.rows,
        BT=t.tokens,
        BK=t.columns,
        num_warps=t.warps,
        num_stages=t.stages,
        **device.early(x.device),
    )
    if together:
        grid = (tokens, triton.cdiv(rows, SUM))
        sum_kernel[grid](
            *(target, bias, y, tokens, rows, y.stride(0)),
            PARTS=parts,
            BLOCK=SUM,
            num_warps=4,
            **device.early(x.device),
        )
    return y


SUM = 512


def kernel_rows(matrices: Iterable[Matrix], dtype: torch.dtype, most: int) -> list[int]:
    """Numbers of rows, up to `most`, whose products are all the kernels that products of so many have."""
    found: set[object] = set()
    rows = []
    # Those of all layers are of a few kinds, and nothing changes any more from so many rows on, nor for panels.
    kinds = {(matrix.shape, kernel_of(matrix, 1, dtype)): matrix for matrix in matrices}.values()
    steady = max((bulk.steady_tokens(matrix.planes[0].device) for matrix in kinds), default=0)
    last = min(most, max(steady, 128 * PROGRAMS) + 1)
    for tokens in [*(n for n in (16, 32, 64) if n < most), *range(128, last, 128), most]:
        kernels = {kernel_of(matrix, tokens, dtype) for matrix in kinds}
        if not kernels <= found:
            rows.append(tokens)
            found |= kernels
    return rows


def kernel_of(matrix: Matrix, tokens: int, dtype: torch.dtype) -> object:
    """Equal for products by the same kernels. With `tokens` it changes at 16, 32, 64 and multiples of 128 only."""
    values, rows, parts = matrix.values, matrix.rows, splits(matrix, dtype)
    dense = isinstance(values, torch.Tensor)
    panel = not dense and tokens > FUSED_ROWS
    if panel:
        rows = min(rows, panel_rows(matrix, tokens, dtype.itemsize))
        values = torch.empty(1, matrix.columns, dtype=dtype, device=matrix.planes[0].device)
        matrix = Matrix(values)
    kind = matrix.format, matrix.columns % UNIT == 0, matrix.rows % 16 == 0, matrix.planes[0].dtype
    if isinstance(values, torch.Tensor) and usable(values, dtype):
        return kind, panel, parts, bulk.tile(rows, tokens, parts, values.device)
    return kind, panel, parts, tile(matrix, tokens, dtype, parts, rows), tokens <= PARALLEL_ROWS


# Numbers that change from step to step are not specialised: no kernel is compiled for 1 or a multiple of 16 of them.
@triton.jit(do_not_specialize=["tokens"])
def product_kernel(
    x,
    values,
    high,
    header,
    bias,
    y,
    tokens,
    rows,
    columns,
    x_stride,
    y_stride,
    part_units,
    PARTS: tl.constexpr,
    TOGETHER: tl.constexpr,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Tiles of y, or with TOGETHER those of the part `program_id(1)` of K, of float32 [PARTS, T, N]."""
    device.await_previous(EARLY)
    # Groups of 8 tiles of rows, all tokens of a group before the next one: what runs at a time shares operands in L2.
    GROUP: tl.constexpr = 8
    row_tiles, token_tiles = tl.cdiv(rows, BN), tl.cdiv(tokens, BT)
    program = tl.program_id(0)
    group = program // (GROUP * token_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    inside = program % (GROUP * token_tiles)
    row = (group * GROUP + inside % height) * BN + tl.arange(0, BN)
    token = (inside // height) * BT + tl.arange(0, BT)

    n = tl.minimum(row, rows - 1)
    kept = token < tokens
    x_rows = x + token.to(tl.int64) * x_stride
    units = tl.cdiv(columns, 256)
    if TOGETHER:
        part = tl.program_id(1)
        first = part * part_units
        last = tl.minimum(first + part_units, units)
        total = tile_product(
            x_rows, kept, values, high, header, n, rows, columns, first, last, FORMAT, EVEN, BN, BT, BK
        )
        y += part.to(tl.int64) * tokens * rows
    elif PARTS == 1:
        total = tile_product(x_rows, kept, values, high, header, n, rows, columns, 0, units, FORMAT, EVEN, BN, BT, BK)
    else:
        total = tl.zeros((BN, BT), tl.float32)
        for part in range(PARTS):
            first = part * part_units
            last = tl.minimum(first + part_units, units)
            total += tile_product(
                x_rows, kept, values, high, header, n, rows, columns, first, last, FORMAT, EVEN, BN, BT, BK
            )
    if bias is not None:
        total += tl.load(bias + n).to(tl.float32)[:, None]
    at = y + token.to(tl.int64)[None, :] * y_stride + row[:, None]
    tl.store(at, total.to(y.dtype.element_ty), mask=(row < rows)[:, None] & kept[None, :])


@triton.jit(do_not_specialize=["tokens"])
def sum_kernel(sums, bias, y, tokens, rows, y_stride, PARTS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """y = the parts of `sums` [PARTS, T, N], in order, and the bias."""
    device.await_previous(EARLY)
    token = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = row < rows
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(sums + (part * tokens + token) * rows + row, mask=kept, other=0)
    if bias is not None:
        total += tl.load(bias + row, mask=kept, other=0).to(tl.float32)
    tl.store(y + token * y_stride + row, total.to(y.dtype.element_ty), mask=kept)
