"""The inner loop of all products with weights: a tile of W X^T, dense or from packed blocks.

The weights are the left operand, so that tokens are the dimension that may be small: a tensor core of Hopper takes
tiles of 64 rows by any multiple of 8 columns, and decoding has few tokens and many rows of weights.

Numerics. An element of the result is one chain of accumulations over K in natural order, in float32, whatever the
tile: the instruction (wgmma on Hopper, mma.sync before it) takes 16 columns of K at a time, and its result for an
element depends on that element's row and column alone. Weights in blocks are rounded to the activations' dtype before
they are multiplied; they come 32 columns of K at a time in the same natural order. So products from blocks, of
dequantised weights, for one row and for thousands have the same bits. A long K is cut in a fixed number of parts that
depends on the matrix alone (`linear.splits`), and their sums are added in order.

A float16 weight, of 11 bits, is the sum of two bfloat16, of 8 each. So float16 loses nothing beside activations in
bfloat16: both halves of the weights are multiplied, one after the other for 64 columns of K at a time in all tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.quantized.unpack import lanes, unpack, unpack_tail


@triton.jit
def tile_product(
    x,
    x_kept,
    values,
    high,
    header,
    n,
    rows,
    columns,
    first,
    last,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    """float32 [BN, BT]: weights `n` times the rows at the pointers `x` [BT], over the units `first` to `last` of K.

    n: int32 [BN], all below `rows`. x_kept: [BT]; other rows count as zero. EVEN: `columns` is a multiple of 256.
    """
    if FORMAT == "dense":
        sums = dense_product(x, x_kept, values, n, columns, first, last, EVEN, BN, BT, BK)
    else:
        sums = tl.zeros((BN, BT), tl.float32)
        LANES: tl.constexpr = lanes(FORMAT)
        whole = columns // 256
        for unit in range(first, tl.minimum(last, whole)):
            for i in tl.static_range(256 // LANES):
                column = unit * 256 + i * LANES + tl.arange(0, LANES)
                xt = tl.load(x[None, :] + column[:, None], mask=x_kept[None, :], other=0)
                weights = unpack(values, high, header, unit, n, rows, i, FORMAT)
                sums = tl.dot(weights.to(xt.dtype), xt, sums, input_precision="ieee")
        if not EVEN:
            runs = tl.where((first < last) & (last > whole), columns % 256 // 32, 0)
            for run in tl.range(0, runs, num_stages=1):
                column = whole * 256 + run * 32 + tl.arange(0, 32)
                xt = tl.load(x[None, :] + column[:, None], mask=x_kept[None, :], other=0)
                weights = unpack_tail(values, high, header, whole, run, n, rows, FORMAT)
                sums = tl.dot(weights.to(xt.dtype), xt, sums, input_precision="ieee")
    return sums


@triton.jit
def dense_product(
    x,
    x_kept,
    values,
    n,
    columns,
    first,
    last,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
):
    sums = tl.zeros((BN, BT), tl.float32)
    at = values + n.to(tl.int64)[:, None] * columns
    # float32 weights, a router's for example, raise the activations to float32.
    dtype = values.dtype.element_ty if values.dtype.element_ty == tl.float32 else x.dtype.element_ty
    HALVED: tl.constexpr = values.dtype.element_ty == tl.float16 and x.dtype.element_ty == tl.bfloat16
    tl.static_assert(not HALVED or BK == 64)
    for start in range(first * 256, last * 256, BK):
        column = start + tl.arange(0, BK)
        if EVEN:
            weights = tl.load(at + column[None, :])
            xt = tl.load(x[None, :] + column[:, None], mask=x_kept[None, :], other=0)
        else:
            inside = column < columns
            weights = tl.load(at + column[None, :], mask=inside[None, :], other=0)
            xt = tl.load(x[None, :] + column[:, None], mask=x_kept[None, :] & inside[:, None], other=0)
        if HALVED:
            upper = weights.to(tl.bfloat16)
            lower = (weights.to(tl.float32) - upper.to(tl.float32)).to(tl.bfloat16)
            sums = tl.dot(upper, xt, sums)
            sums = tl.dot(lower, xt, sums)
        else:
            sums = tl.dot(weights.to(dtype), xt.to(dtype), sums, input_precision="ieee")
    return sums
