"""What the kernels compute with: the functions of `native/sampling/{softmax,random,candidate,watermark}.h`."""

import triton
import triton.language as tl

NO_TOKEN = tl.constexpr(0x7FFFFFFF)
IMPOSSIBLE = tl.constexpr(float("-inf"))


@triton.jit
def bounded(x):
    """As far as the logit of a token may be driven; what is impossible stays so."""
    return tl.where(x == IMPOSSIBLE, x, tl.minimum(tl.maximum(x, -1e30), 1e30))


@triton.jit
def exp_nonpositive(x):
    """e^x for x <= 0 in float32, 0 below -87: the very operations of softmax.h."""
    clamped = tl.where(x < -87.0, -87.0, x)
    shifted = clamped * 1.44269504 + 12582912.0
    n = shifted - 12582912.0
    r = clamped - n * 0.693359375
    r = r + n * 2.12194440e-4
    p = 1.3981999e-3
    p = p * r + 8.3334519e-3
    p = p * r + 4.1665796e-2
    p = p * r + 1.6666665e-1
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    bits = p.to(tl.int32, bitcast=True) + (shifted.to(tl.int32, bitcast=True) << 23)
    return tl.where(x < -87.0, 0.0, bits.to(tl.float32, bitcast=True))


@triton.jit
def reaches(mass, total, p):
    """Whether `mass` of `total` (float64) reaches p, in float32, as p was given."""
    return (mass / total).to(tl.float32) >= p


@triton.jit
def ordered(x):
    """An int64 that is larger for a larger float32, and one for both zeros."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def float_of(key):
    """The float32 of an `ordered` integer."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def mix64(z):
    """The finaliser of SplitMix64, on uint64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def uniform(key, token):
    """Uniform in (0, 1), float64, for a token (int32) of the draw with this key (uint64)."""
    bits = mix64(key + (token + 1).to(tl.uint64) * 0x9E3779B97F4A7C15)
    return ((bits >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16


@triton.jit
def permuted_once(key, x, BITS: tl.constexpr):
    mask = (1 << BITS) - 1
    for _ in range(4):
        x = (x + key) & mask
        x = (x * ((key >> 32) | 1)) & mask
        x = x ^ (x >> (BITS // 2 + 1))
        key = (key >> 13) | (key << 51)
    return x


@triton.jit
def permuted(key, ids, size, BITS: tl.constexpr):
    """Where the permutation of 0..size-1 with this key (uint64, mixed) puts the ids; BITS are those of size - 1."""
    x = permuted_once(key, ids.to(tl.uint64), BITS)
    while tl.max((x >= size).to(tl.int32)) > 0:
        x = tl.where(x >= size, permuted_once(key, x, BITS), x)
    return x
