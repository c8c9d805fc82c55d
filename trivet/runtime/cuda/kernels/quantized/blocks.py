"""The layout of quantised weights on the device, and its making from GGUF's blocks.

A GGUF block mixes scales and integers, and is of 18 or 210 bytes: a GPU would load it in pieces of two bytes. Here the
same bits lie in planes that are loaded 16 bytes at a time. All formats are cut alike, into units of 256 columns, which
are eight runs of 32:

    quants  int32 [units, N, 32]      Bits 4j .. 4j+3 of word w are the low four bits of column 32 j + w. So shifting a
                                      tile of words by 4 j gives run j, whose columns share a scale, in natural order.
            int32 [2 units, N, 32]    Q8_0: byte j % 4 of word w of tile j // 4 is column 32 j + w.
    high    uint8 or int16 [units, N, 32]   The fifth bits (bit j is run j's), or the two high bits of Q6_K.
    header  int32 [units, words, N]   Scales and minima: as in a block of 256, or those of eight blocks of 32, float16
                                      scales before minima. Neighbours are neighbouring rows, as the threads of a warp.

A tile of 64 rows of one unit is 8 KiB in one piece. Columns that are no multiple of 256, which only formats of 32 may
have, end in up to seven blocks a row. They lie behind the units of the same planes, run after run and of each row after
row, as GGUF has them: bytes of quants, of fifth bits, of scales. Nothing grows but Q6_K, by 2 bytes in 210.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trivet.weights.formats import Format

UNIT = 256
"""Columns."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Quantised rows `[N, columns]`, or stacks of them: then every plane, which is flat, has a leading dimension."""

    format: Format
    rows: int
    columns: int
    quants: torch.Tensor
    high: torch.Tensor | None
    header: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return sum(plane.nbytes for plane in (self.quants, self.high, self.header) if plane is not None)


def pack(data: torch.Tensor, fmt: Format) -> Blocks:
    """From GGUF's own rows `data`, uint8 [..., N, row bytes], on any device, which is where the result is.

    Raises ValueError where `fmt` is not in FORMATS, or a row is not of whole blocks.
    """
    if fmt not in FORMATS:
        raise ValueError(f"no kernel multiplies {fmt.name}; those there are take {', '.join(f.name for f in FORMATS)}")
    *stack, rows, row_bytes = data.shape
    if row_bytes % fmt.block_bytes:
        raise ValueError(f"{row_bytes} bytes are no whole number of {fmt.name}'s blocks of {fmt.block_bytes}")
    layout = FORMATS[fmt]
    blocks = row_bytes // fmt.block_bytes
    per_unit = UNIT // fmt.block_size
    units, runs = divmod(blocks, per_unit)
    fifths = 4 if layout.high is torch.uint8 else 0
    pieces = layout.scales, fifths, fmt.block_bytes - layout.scales - fifths

    def plane(unit: int, piece: int, dtype: torch.dtype) -> torch.Tensor:
        size = units * rows * unit + -(-runs * rows * piece // dtype.itemsize)
        made = torch.empty(*stack, size, dtype=dtype, device=data.device)
        made[..., -1:] = 0  # of which the tail may fill only a part
        return made

    quants = plane(layout.tiles * 32, pieces[2], torch.int32)
    high = None if layout.high is None else plane(32, fifths, layout.high)
    header = plane(layout.words, layout.scales, torch.int32)

    experts = [()] if not stack else [(e,) for e in range(stack[0])]
    step = max(1, PIECE // row_bytes)
    for expert in experts:
        low, low_tail = _parts(quants[expert], (units * layout.tiles, rows, 32), (runs, rows, pieces[2]))
        words, words_tail = _parts(header[expert], (units, layout.words, rows), (runs, rows, pieces[0]))
        further = None if high is None else _parts(high[expert], (units, rows, 32), (runs, rows, fifths))
        for begin in range(0, rows, step):
            part = slice(begin, begin + step)
            piece = data[expert][part].unflatten(-1, (blocks, fmt.block_bytes))
            count, tail = len(piece), piece[:, units * per_unit :].transpose(0, 1).split(pieces, -1)
            words_tail[:, part], low_tail[:, part] = tail[0], tail[2]
            if further is not None:
                further[1][:, part] = tail[1]
            if not units:
                continue
            planes = layout.planes(piece[:, : units * per_unit].reshape(count, units, per_unit, fmt.block_bytes))
            low[:, part] = planes.quants.view(torch.int32).reshape(count, units * layout.tiles, 32).transpose(0, 1)
            words[:, :, part] = planes.header.view(torch.int32).reshape(count, units, layout.words).permute(1, 2, 0)
            if further is not None and planes.high is not None:
                further[0][:, part] = planes.high.view(layout.high).reshape(count, units, 32).transpose(0, 1)
    return Blocks(fmt, rows, blocks * fmt.block_size, quants, high, header)


def _parts(plane: torch.Tensor, units: tuple[int, ...], tail: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a flat plane: what is of units, and the bytes behind."""
    size = math.prod(units)
    return plane[:size].view(units), plane[size:].view(torch.uint8)[: math.prod(tail)].view(tail)


PIECE = 32 << 20
"""Bytes of blocks that are laid out at once: what is needed for it besides is a few times as much."""


@dataclass(frozen=True, slots=True)
class Planes:
    """Bytes [rows, units, ...] of each plane, contiguous."""

    quants: torch.Tensor
    header: torch.Tensor
    high: torch.Tensor | None = None


def words_of_nibbles(nibbles: torch.Tensor) -> torch.Tensor:
    """Bytes [..., 32, 4] of the words whose nibble j is `nibbles[..., j, w]`."""
    pairs = nibbles.unflatten(-2, (4, 2))
    return (pairs[..., 0, :] | pairs[..., 1, :] << 4).transpose(-1, -2).contiguous()


def halves(q: torch.Tensor) -> torch.Tensor:
    """Nibbles [..., 2 n] of bytes [..., n] that have values 0 .. n-1 in their low halves, n .. 2n-1 in the high."""
    return torch.cat([q & 15, q >> 4], -1)


def joined(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten(2) for part in parts], -1)


def bits(high: torch.Tensor) -> torch.Tensor:
    """Bytes [..., 32] whose bit j is bit w of run j: of `high`, uint8 [..., 8 runs, 4]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=high.device)
    fifth = (high[..., None] >> shifts & 1).flatten(-2)  # [..., run, w]
    return (fifth << shifts[:, None]).sum(-2, dtype=torch.uint8)


def four_bits(scales: int) -> Callable[[torch.Tensor], Planes]:
    """Blocks of 32 with `scales` bytes before 16 of nibbles."""

    def planes(b: torch.Tensor) -> Planes:
        parts = [b[..., i : i + 2] for i in range(0, scales, 2)] if scales > 1 else [b[..., :1]]
        return Planes(words_of_nibbles(halves(b[..., scales:])), joined(*parts))

    return planes


def five_bits(scales: int) -> Callable[[torch.Tensor], Planes]:
    def planes(b: torch.Tensor) -> Planes:
        parts = [b[..., i : i + 2] for i in range(0, scales, 2)]
        high = bits(b[..., scales : scales + 4])
        return Planes(words_of_nibbles(halves(b[..., scales + 4 :])), joined(*parts), high)

    return planes


def q8_0(b: torch.Tensor) -> Planes:
    q = b[..., 2:].unflatten(-2, (2, 4))  # [..., tile, byte, word]
    return Planes(q.transpose(-1, -2).contiguous(), joined(b[..., :2]))


def q4_k(b: torch.Tensor) -> Planes:
    # Its byte l of pair p has runs 2 p and 2 p + 1: byte p of word l.
    words = b[..., 16:].flatten(2).unflatten(-1, (4, 32)).transpose(-1, -2).contiguous()
    return Planes(words, joined(b[..., :16]))


def q5_k(b: torch.Tensor) -> Planes:
    words = b[..., 48:].flatten(2).unflatten(-1, (4, 32)).transpose(-1, -2).contiguous()
    return Planes(words, joined(b[..., :16]), b[..., 16:48].contiguous())


def q6_k(b: torch.Tensor) -> Planes:
    b = b[:, :, 0]
    low = b[..., :128].unflatten(-1, (2, 1, 2, 32))  # half, -, quarter % 2, l
    nibbles = torch.cat([low & 15, low >> 4], -3).flatten(-4, -2)
    high = b[..., 128:192].unflatten(-1, (2, 32)).transpose(-1, -2).contiguous()
    header = torch.nn.functional.pad(torch.cat([b[..., 192:208], b[..., 208:]], -1), (0, 2))
    return Planes(words_of_nibbles(nibbles), header, high)


def iq4_xs(b: torch.Tensor) -> Planes:
    nibbles = halves(b[..., 8:].flatten(2).unflatten(-1, (8, 16)))
    return Planes(words_of_nibbles(nibbles), joined(b[..., :8]))


@dataclass(frozen=True, slots=True)
class Layout:
    planes: Callable[[torch.Tensor], Planes]
    """Of uint8 [rows, units, blocks of a unit, bytes of a block]."""
    words: int
    """Of a header."""
    scales: int = 0
    """Bytes that a block of 32 begins with."""
    high: torch.dtype | None = None
    tiles: int = 1


FORMATS = {
    Format.Q4_0: Layout(four_bits(2), words=4, scales=2),
    Format.Q4_1: Layout(four_bits(4), words=8, scales=4),
    Format.Q5_0: Layout(five_bits(2), words=4, scales=2, high=torch.uint8),
    Format.Q5_1: Layout(five_bits(4), words=8, scales=4, high=torch.uint8),
    Format.Q8_0: Layout(q8_0, words=4, scales=2, tiles=2),
    Format.IQ4_NL: Layout(four_bits(2), words=4, scales=2),
    Format.MXFP4: Layout(four_bits(1), words=2, scales=1),
    Format.Q4_K: Layout(q4_k, words=4),
    Format.Q5_K: Layout(q5_k, words=4, high=torch.uint8),
    Format.Q6_K: Layout(q6_k, words=5, high=torch.int16),
    Format.IQ4_XS: Layout(iq4_xs, words=2),
}
"""The formats that are multiplied as they are."""
