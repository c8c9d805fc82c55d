// GGUF's blocks as they lie in a file (little endian). Layouts: ggml's block_q4_0, block_q8_0, block_q4_K,
// block_q6_K.
#pragma once

#include <cstdint>

namespace trivet {

// x[i] = d * (q[i] - 8); low nibbles are values 0..15, high nibbles 16..31.
struct BlockQ4_0 {
  std::uint16_t d;
  std::uint8_t q[16];
};

// x[i] = d * q[i]
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t q[32];
};

// Eight runs of 32 values: x = (d * scale[run]) * q - dmin * min[run]; run 2p is in the low nibbles of
// q[32p, 32p + 32), run 2p + 1 in the high ones. `scales` packs 8 scales and 8 minima of 6 bits: see
// unpack_scales.
struct BlockQ4_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
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

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ6_K) == 210);

// The 6-bit scale and minimum of run `j` of a Q4_K block.
struct ScaleMin {
  std::uint8_t scale, min;
};

ScaleMin unpack_scale(const BlockQ4_K& block, int j);

}  // namespace trivet
