"""Random numbers that belong to a row as a whole (`native/sampling/random.h`), computed on the host."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_COIN = 0xFFFFFFFE
_PRIME = 15485863


def mix64(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def draw_key(seed: int, position: int) -> int:
    """Of one draw; any 64-bit seed, signed or not."""
    first = mix64((seed + 0x9E3779B97F4A7C15) & _MASK)
    return mix64((first + position * 0xD1B54A32D192ED03) & _MASK)


def coin(key: int) -> float:
    """Uniform in (0, 1)."""
    bits = mix64((key + (_COIN + 1) * 0x9E3779B97F4A7C15) & _MASK)
    return ((bits >> 11) + 0.5) * 2.0**-53


def watermark_key(last_token: int) -> int:
    """Of the permutation that TGI's watermark makes of the vocabulary after a token."""
    return mix64(_PRIME * last_token & _MASK)
