// GGUF's blocks as they lie in a file (little endian): ggml's block_q4_0, block_q4_1, ...
//
// x[i] is value i of a block, q(i) its stored integer, d a float16. In blocks of 32, low nibbles are values
// 0..15 and high nibbles 16..31.
#pragma once

#include <cstdint>

namespace trivet {

// x[i] = d * (q(i) - 8)
struct BlockQ4_0 {
  std::uint16_t d;
  std::uint8_t q[16];
};

// x[i] = d * q(i) + m
struct BlockQ4_1 {
  std::uint16_t d, m;
  std::uint8_t q[16];
};

// x[i] = d * (q(i) - 16); bit i of `high` is the fifth bit of value i.
struct BlockQ5_0 {
  std::uint16_t d;
  std::uint8_t high[4];
  std::uint8_t q[16];
};

// x[i] = d * q(i) + m
struct BlockQ5_1 {
  std::uint16_t d, m;
  std::uint8_t high[4];
  std::uint8_t q[16];
};

// x[i] = d * q(i)
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t q[32];
};

// x[i] = d * kValuesIQ4[q(i)]
struct BlockIQ4_NL {
  std::uint16_t d;
  std::uint8_t q[16];
};

// x[i] = 2^(exponent - 128) * kValuesFP4[q(i)]
struct BlockMXFP4 {
  std::uint8_t exponent;
  std::uint8_t q[16];
};

// Four runs of 16 values: x = scale[run] / 2 * kValuesFP4[q], where scale is a float of 4 exponent (bias 7)
// and 3 mantissa bits without sign, and 0x7f is 0. Run r is in q[8r, 8r + 8), values 0..7 in the low nibbles.
struct BlockNVFP4 {
  std::uint8_t scale[4];
  std::uint8_t q[32];
};

// x[i] = bit i of q ? d : -d
struct BlockQ1_0 {
  std::uint16_t d;
  std::uint8_t q[16];
};

// x[i] = d * (q(i) - 1); value i is in bits 2(i % 4) of byte i / 4.
struct BlockQ2_0 {
  std::uint16_t d;
  std::uint8_t q[16];
};

// Of the blocks of 256, Q2_K, Q3_K and TQ2_0 have two bits of value 128h + 32k + l (half h, quarter k, l <
// 32) in q[32h + l] >> 2k.

// Sixteen runs of 16 values: x = d * (scales[run] & 15) * q - dmin * (scales[run] >> 4)
struct BlockQ2_K {
  std::uint8_t scales[16];
  std::uint8_t q[64];
  std::uint16_t d, dmin;
};

// Sixteen runs of 16 values: x = d * (scale[run] - 32) * (q - 4). The third bit of value 128h + 32k + l is
// bit 4h
// + k of high[l]. Of the 6 bits of scale i, the low four are in scales[i % 8] >> 4(i / 8), the high two in
// scales[8 + i % 4] >> 2(i / 4).
struct BlockQ3_K {
  std::uint8_t high[32];
  std::uint8_t q[64];
  std::uint8_t scales[12];
  std::uint16_t d;
};

// Eight runs of 32 values: x = (d * scale[run]) * q - dmin * min[run]; run 2p is in the low nibbles of
// q[32p, 32p + 32), run 2p + 1 in the high ones. `scales` packs 8 scales and 8 minima of 6 bits: see
// unpack_scale.
struct BlockQ4_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
  std::uint8_t q[128];
};

// As Q4_K, with the fifth bit of value l of run k as bit k of high[l].
struct BlockQ5_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
  std::uint8_t high[32];
  std::uint8_t q[128];
};

// Sixteen runs of 16 values: x = (d * scale[run]) * (q - 32). For half h, quarter k and l < 32, value 128h +
// 32k + l has its low four bits in low[64h + 32(k % 2) + l] (low nibble for k < 2), its high two in high[32h
// + l] >> 2k.
struct BlockQ6_K {
  std::uint8_t low[128];
  std::uint8_t high[64];
  std::int8_t scales[16];
  std::uint16_t d;
};

// Eight runs of 32 values: x = d * (scale[run] - 32) * kValuesIQ4[q]. Run k has the low four bits of its
// scale in nibble k of low_scales, the high two in high_scales >> 2k, and its values in q[16k, 16k + 16) as
// IQ4_NL has.
struct BlockIQ4_XS {
  std::uint16_t d, high_scales;
  std::uint8_t low_scales[4];
  std::uint8_t q[128];
};

// x = d * (q - 1). Digit n (base 3) of byte v is (v * 3^n % 256) * 3 / 256: value 32n + i < 160 is digit n of
// q[i], value 160 + 16n + i of q[32 + i], value 240 + 4n + i of high[i].
struct BlockTQ1_0 {
  std::uint8_t q[48];
  std::uint8_t high[4];
  std::uint16_t d;
};

// x = d * (q - 1)
struct BlockTQ2_0 {
  std::uint8_t q[64];
  std::uint16_t d;
};

// Grid formats: eight values (four in IQ3) are an entry of a grid (see grids.h), with a sign each. Seven bits
// say eight signs, of which an even number is negative: see even_signs.

// Run k of 32 values has words[2k], four indices of 8 bits, and words[2k + 1], four times 7 bits of signs and
// above them 4 bits of scale s: x = d * (s + 1/2) / 4 * grid.
struct BlockIQ2_XXS {
  std::uint16_t d;
  std::uint8_t words[64];
};

// Group g of 8 values has a uint16 q[g]: 9 bits of index and 7 of signs. A scale is a nibble for 16 values,
// as in IQ2_XXS.
struct BlockIQ2_XS {
  std::uint16_t d;
  std::uint8_t q[64];
  std::uint8_t scales[8];
};

// Group g has the low 8 bits of its index in q[g], the high two in high[g / 4] >> 2(g % 4), its signs in
// signs[g].
struct BlockIQ2_S {
  std::uint16_t d;
  std::uint8_t q[32];
  std::uint8_t signs[32];
  std::uint8_t high[8];
  std::uint8_t scales[8];
};

// Quad v of 4 values has index q[v]; signs and scale of a run of 32 values are in words[k] as in IQ2_XXS: x =
// d * (s + 1/2) / 2 * grid.
struct BlockIQ3_XXS {
  std::uint16_t d;
  std::uint8_t q[64];
  std::uint8_t words[32];
};

// Quad v has the low 8 bits of its index in q[v], the ninth in bit v % 8 of high[v / 8]. Run k has its scale
// s in nibble k of scales: x = d * (1 + 2s) * grid.
struct BlockIQ3_S {
  std::uint16_t d;
  std::uint8_t q[64];
  std::uint8_t high[8];
  std::uint8_t signs[32];
  std::uint8_t scales[4];
};

// Group g of 8 values has the low 8 bits of its index in q[g]; run k of 32 values a uint16 high[k] with four
// times 3 more bits of index, 3 bits of scale s and a sign: x = d * (2s + 1) * (grid + (sign ? -1/8 : 1/8)).
struct BlockIQ1_S {
  std::uint16_t d;
  std::uint8_t q[32];
  std::uint8_t high[16];
};

// As IQ1_S, but nibble g of high has 3 more bits of group g's index and above them its sign, and scales are
// for 16 values: 4 times 3 bits in each uint16 of scales, whose top nibbles are d, the lowest first.
struct BlockIQ1_M {
  std::uint8_t q[32];
  std::uint8_t high[16];
  std::uint8_t scales[8];
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 &&
              sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18 &&
              sizeof(BlockMXFP4) == 17 && sizeof(BlockNVFP4) == 36 && sizeof(BlockQ1_0) == 18 &&
              sizeof(BlockQ2_0) == 18);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_XS) == 136 &&
              sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);
static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82 &&
              sizeof(BlockIQ3_XXS) == 98 && sizeof(BlockIQ3_S) == 110 && sizeof(BlockIQ1_S) == 50 &&
              sizeof(BlockIQ1_M) == 56);

// The 6-bit scale and minimum of run `j` of a Q4_K or Q5_K block.
struct ScaleMin {
  std::uint8_t scale, min;
};

inline ScaleMin unpack_scale(const std::uint8_t (&s)[12], int j) {
  if (j < 4) return {static_cast<std::uint8_t>(s[j] & 63), static_cast<std::uint8_t>(s[j + 4] & 63)};
  return {static_cast<std::uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<std::uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}

// The scale of run `i` of a Q3_K block, -32..31.
inline int unpack_scale(const BlockQ3_K& block, int i) {
  return ((block.scales[i % 8] >> 4 * (i / 8) & 15) | (block.scales[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
}

// The scale of run `k` of an IQ4_XS block, -32..31.
inline int unpack_scale(const BlockIQ4_XS& block, int k) {
  return ((block.low_scales[k / 2] >> 4 * (k % 2) & 15) | (block.high_scales >> 2 * k & 3) << 4) - 32;
}

// Eight signs, a set bit for a negative value, from seven: the eighth makes their number even.
inline std::uint8_t even_signs(std::uint32_t seven) {
  seven &= 127;
  return static_cast<std::uint8_t>(seven | __builtin_parity(seven) << 7);
}

}  // namespace trivet
