"""What the bits of each format mean: the one place that products, dequantising and embeddings ask.

The routines of formats give run `j` of 32 columns of one unit as float32 [rows, 32], bit for bit what GGUF's formulas
give, but for the signs of zeros. They take `low`, the int32 tile [rows, 32] that has run j; `high`, the tile of further
bits; and scales and minima [rows] of blocks of 32, or `header`, pointers [rows] to the first word of the unit's header,
and the distance `stride` of its words (see blocks.py). Q6_K has a scale for 16 columns, and so comes in halves of runs,
[rows, 16].

Everything between a load and a result is element by element, with values of rows broadcast: then Triton has the words
go from shared memory to the registers that a tensor core takes them from, and unpacks them there. (A `where` on
columns, or a load from a table, would send the weights through shared memory once more.)

Products of a float16 scale, a scale of up to 8 bits and an integer of up to 5 are exact in float32; so it makes no
difference whether the compiler contracts the subtraction of a minimum into an fma.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def half(word, second: tl.constexpr):
    """The lower or upper half of a word, a float16, as float32."""
    return (word >> (16 * second)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def above(word, i: tl.constexpr, EXPONENT: tl.constexpr):
    """2^15 + the i-th byte of a word, as float32; or 2^7 + it, if it is below 128.

    A conversion would take a unit with half the lanes, after a shift and a mask that take the same one.
    """
    # The exponent comes first: an instruction has room for one constant, which is then the selector. The other way
    # around it would be the exponent, and the selector be moved to a register before each.
    if EXPONENT == 15:
        bits = libdevice.byte_perm(0x47000000, word, 0x3240 + (i << 4))
    else:
        tl.static_assert(EXPONENT == 7)
        bits = libdevice.byte_perm(0x43000000, word, 0x3410 + (i << 8))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def byte(word, i: tl.constexpr, less: tl.constexpr = 0):
    """The i-th of a word, as float32, minus `less`."""
    return above(word, i, 15) - ((1 << 15) + less)


@triton.jit
def scaled(word, i: tl.constexpr, scale, less: tl.constexpr = 0, EXPONENT: tl.constexpr = 7):
    """`scale` times what the i-th byte of a word, which is below 128 unless EXPONENT is 15, is minus `less`: rounded
    once, if what is subtracted is exact. Its integer has at most as many bits as 2^EXPONENT + less without last zeros.
    """
    return tl.fma(scale, above(word, i, EXPONENT), scale * (-(1 << EXPONENT) - less))


@triton.jit
def nibbles(low, j: tl.constexpr):
    """Words of nibbles as bytes: that of j is the byte j // 2."""
    return (low if j % 2 == 0 else low >> 4) & 0x0F0F0F0F


@triton.jit
def with_fifth(low, high, j: tl.constexpr):
    """Words whose byte j // 2 is nibble j, above which is bit j of `high`."""
    bits = high.to(tl.int32) & 255
    bits = (bits | (bits << 12)) & 0x000F000F
    bits = (bits | (bits << 6)) & 0x03030303
    return nibbles(low, j) | ((bits << (4 - j % 2)) & 0x10101010)


@triton.jit
def with_two_bits(low, high, j: tl.constexpr):
    """Words whose byte j // 2 is nibble j, above which are bits 2 j and 2 j + 1 of `high`."""
    bits = high.to(tl.int32)
    bits = (bits & 0xFF) | ((bits << 8) & 0x00FF0000)
    bits = (bits | (bits << 4)) & 0x0F0F0F0F
    return nibbles(low, j) | ((bits << (4 - 2 * (j % 2))) & 0x30303030)


@triton.jit
def half_of_run(header, stride, j: tl.constexpr):
    """The j-th of a header's float16."""
    return half(tl.load(header + (j // 2) * stride), j % 2)


@triton.jit
def looked_up(low, j: tl.constexpr, T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr, T3: tl.constexpr):
    """Words whose byte j % 4 is that of nibble j in a table of 16, which is T0 to T3, lowest byte first.

    Seven instructions look up the four nibbles of half a word, where one each would take ten.
    """
    q = low if j < 4 else low >> 16
    lower, upper = libdevice.byte_perm(T0, T1, q & 0x7777), libdevice.byte_perm(T2, T3, q & 0x7777)
    above_seven = libdevice.byte_perm(0, -1, (q >> 1) & 0x4444)
    return (lower & ~above_seven) | (upper & above_seven)


@triton.jit
def iq4_value(low, j: tl.constexpr):
    """128 more than -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113"""
    return looked_up(low, j, 0x3F2D1801, 0x766A5D4F, -0x5966727F, -0x0E263A4B)


@triton.jit
def fp4_value(low, j: tl.constexpr):
    """16 more than 0, 1, 2, 3, 4, 6, 8, 12, and then all of them negative"""
    return looked_up(low, j, 0x13121110, 0x1C181614, 0x0D0E0F10, 0x04080A0C)


@triton.jit
def power(exponent):
    """2^(exponent - 128) of eight bits, of which the smallest two are subnormal."""
    bits = tl.where(exponent < 2, 0x00200000 << (exponent & 1), (exponent - 1) << 23)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def unpack_block(low, high, scale, minimum, j: tl.constexpr, FORMAT: tl.constexpr):
    """Of a format whose blocks are runs."""
    scale = scale[:, None]
    if FORMAT == "Q4_0":
        values = scaled(nibbles(low, j), j // 2, scale, 8)
    elif FORMAT == "Q4_1":
        values = scaled(nibbles(low, j), j // 2, scale) + minimum[:, None]
    elif FORMAT == "Q5_0":
        values = scaled(with_fifth(low, high, j), j // 2, scale, 16)
    elif FORMAT == "Q5_1":
        values = scaled(with_fifth(low, high, j), j // 2, scale) + minimum[:, None]
    elif FORMAT == "Q8_0":
        values = scaled(low ^ -0x7F7F7F80, j % 4, scale, 128, 15)
    elif FORMAT == "IQ4_NL":
        values = scaled(iq4_value(low, j), j % 4, scale, 128, 15)
    else:
        tl.static_assert(FORMAT == "MXFP4")  # some of whose scales are too large to be multiplied by 128
        values = scale * byte(fp4_value(low, j), j % 4, 16)
    return values


@triton.jit
def block_scale(header, stride, j: tl.constexpr, FORMAT: tl.constexpr):
    if FORMAT == "MXFP4":
        scale = power((tl.load(header + (j // 4) * stride) >> (8 * (j % 4))) & 255)
    else:
        scale = half_of_run(header, stride, j)
    return scale


@triton.jit
def scale_and_minimum(header, stride, j: tl.constexpr):
    """float32 [rows] each, of run j of Q4_K or Q5_K: (d, dmin), then twelve bytes of 6-bit integers."""
    halves = tl.load(header)
    first, second, third = tl.load(header + stride), tl.load(header + 2 * stride), tl.load(header + 3 * stride)
    if j < 4:
        scales, minima = first & 0x3F3F3F3F, second & 0x3F3F3F3F
    else:
        scales = (third & 0x0F0F0F0F) | ((first >> 2) & 0x30303030)
        minima = ((third >> 4) & 0x0F0F0F0F) | ((second >> 2) & 0x30303030)
    return scaled(scales, j % 4, half(halves, 0)), scaled(minima, j % 4, half(halves, 1))


@triton.jit
def unpack_q4_k(low, header, stride, j: tl.constexpr):
    scale, minimum = scale_and_minimum(header, stride, j)
    return scale[:, None] * byte(nibbles(low, j), j // 2) - minimum[:, None]


@triton.jit
def unpack_q5_k(low, high, header, stride, j: tl.constexpr):
    scale, minimum = scale_and_minimum(header, stride, j)
    return scale[:, None] * byte(with_fifth(low, high, j), j // 2) - minimum[:, None]


@triton.jit
def unpack_q6_k(low, high, header, stride, j: tl.constexpr, part: tl.constexpr):
    scales = tl.load(header + (j // 2) * stride) ^ -0x7F7F7F80
    scale = scaled(scales, 2 * (j % 2) + part, half(tl.load(header + 4 * stride), 0), 128, 15)
    return scaled(with_two_bits(low, high, j), j // 2, scale[:, None], 32)


@triton.jit
def unpack_iq4_xs(low, header, stride, j: tl.constexpr):
    halves, low_scales = tl.load(header), tl.load(header + stride)
    scale = scaled(with_two_bits(low_scales, halves >> 16, j), j // 2, half(halves, 0), 32)
    return scale[:, None] * byte(iq4_value(low, j), j % 4, 128)


@triton.constexpr_function
def lanes(format):
    """Columns that are unpacked at a time."""
    return 16 if format == "Q6_K" else 32


@triton.constexpr_function
def header_words(format):
    return {"IQ4_XS": 2, "MXFP4": 2, "Q4_1": 8, "Q5_1": 8, "Q6_K": 5}.get(format, 4)


@triton.jit
def unpack(quants, high, header, unit, n, rows, i: tl.constexpr, FORMAT: tl.constexpr):
    """The i-th `lanes(FORMAT)` columns of a unit, of the rows `n` of `rows`: float32 [len(n), lanes(FORMAT)].

    What several calls in one body of a loop load alike is loaded once.
    """
    LANES: tl.constexpr = lanes(FORMAT)
    j: tl.constexpr = i * LANES // 32
    part: tl.constexpr = i * LANES % 32 // LANES
    tile = 2 * unit + j // 4 if FORMAT == "Q8_0" else unit
    word = part * LANES + tl.arange(0, LANES)[None, :]
    low = tl.load(quants + (tile * rows + n).to(tl.int64)[:, None] * 32 + word)
    bits = 0
    if high is not None:
        bits = tl.load(high + (unit * rows + n).to(tl.int64)[:, None] * 32 + word)
    first = header + (unit * header_words(FORMAT) * rows + n)
    if FORMAT == "Q4_K":
        values = unpack_q4_k(low, first, rows, j)
    elif FORMAT == "Q5_K":
        values = unpack_q5_k(low, bits, first, rows, j)
    elif FORMAT == "Q6_K":
        values = unpack_q6_k(low, bits, first, rows, j, part)
    elif FORMAT == "IQ4_XS":
        values = unpack_iq4_xs(low, first, rows, j)
    else:
        minimum = half_of_run(first, rows, 8 + j) if FORMAT == "Q4_1" or FORMAT == "Q5_1" else 0
        values = unpack_block(low, bits, block_scale(first, rows, j, FORMAT), minimum, j, FORMAT)
    return values


@triton.jit
def behind(plane, words, TYPE: tl.constexpr):
    """What lies behind the first `words` of a plane, as pointers to bytes or words of so many bits."""
    return (plane + words).to(tl.pointer_type(TYPE), bitcast=True)


@triton.jit
def unpack_tail(quants, high, header, units, run, n, rows, FORMAT: tl.constexpr):
    """Run number `run` of those behind the `units` whole ones, of the rows `n` of `rows`: float32 [len(n), 32]."""
    w = tl.arange(0, 32)[None, :]
    at = run * rows.to(tl.int64) + n
    units_rows = units.to(tl.int64) * rows
    bits, minimum = 0, 0
    if FORMAT == "Q8_0":
        low = tl.load(behind(quants, units_rows * 64, tl.uint8) + at[:, None] * 32 + w).to(tl.int32)
    else:
        low = tl.load(behind(quants, units_rows * 32, tl.uint8) + at[:, None] * 16 + w % 16).to(tl.int32)
        low = (low >> (w // 16 * 4)) & 15
    if high is not None:
        bits = tl.load(behind(high, units_rows * 32, tl.int32) + at)[:, None] >> w
    words = units_rows * header_words(FORMAT)
    if FORMAT == "MXFP4":
        scale = power(tl.load(behind(header, words, tl.uint8) + at).to(tl.int32))
    elif FORMAT == "Q4_1" or FORMAT == "Q5_1":
        both = tl.load(behind(header, words, tl.int32) + at)
        scale, minimum = half(both, 0), half(both, 1)
    else:
        scale = half(tl.load(behind(header, words, tl.int16) + at), 0)
    return unpack_block(low, bits, scale, minimum, 0, FORMAT)
