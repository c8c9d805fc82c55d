#include <cstring>

#include "formats/blocks.h"
#include "formats/format.h"
#include "formats/half.h"

namespace trivet {
namespace {

// Each `expand` writes the values of one block; the order of the float operations is the `gguf` package's.
void expand(const BlockQ4_0& block, float* out) {
  const float d = float_from_f16(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.q[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block.q[i] >> 4) - 8);
  }
}

void expand(const BlockQ8_0& block, float* out) {
  const float d = float_from_f16(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.q[i]);
}

void expand(const BlockQ4_K& block, float* out) {
  const float d = float_from_f16(block.d), dmin = float_from_f16(block.dmin);
  for (int run = 0; run < 8; ++run) {
    const ScaleMin packed = unpack_scale(block, run);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* q = block.q + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int i = 0; i < 32; ++i) out[run * 32 + i] = scale * static_cast<float>((q[i] >> shift) & 15) - min;
  }
}

void expand(const BlockQ6_K& block, float* out) {
  const float d = float_from_f16(block.d);
  for (int quarter = 0; quarter < 8; ++quarter, out += 32) {
    const int half = quarter / 4, k = quarter % 4;
    const std::uint8_t *low = block.low + 64 * half + 32 * (k % 2), *high = block.high + 32 * half;
    for (int l = 0; l < 32; ++l) {
      const int q = (low[l] >> (k / 2 * 4) & 15) | (high[l] >> 2 * k & 3) << 4;
      out[l] = d * static_cast<float>(block.scales[2 * quarter + l / 16]) * static_cast<float>(q - 32);
    }
  }
}

template <class Block>
void expand_all(const std::byte* blocks, std::int64_t count, int block_size, float* out) {
  for (std::int64_t i = 0; i < count; i += block_size, blocks += sizeof(Block)) {
    Block block;
    std::memcpy(&block, blocks, sizeof block);
    expand(block, out + i);
  }
}

template <class Convert>
void convert_all(const std::byte* values, std::int64_t count, float* out, Convert convert) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, values + 2 * i, sizeof half);
    out[i] = convert(half);
  }
}

}  // namespace

void dequantize(Format format, const std::byte* blocks, std::int64_t count, float* out) {
  switch (format) {
    case Format::F32: std::memcpy(out, blocks, static_cast<std::size_t>(count) * sizeof(float)); break;
    case Format::F16: convert_all(blocks, count, out, float_from_f16); break;
    case Format::BF16: convert_all(blocks, count, out, float_from_bf16); break;
    case Format::Q4_0: expand_all<BlockQ4_0>(blocks, count, 32, out); break;
    case Format::Q8_0: expand_all<BlockQ8_0>(blocks, count, 32, out); break;
    case Format::Q4_K: expand_all<BlockQ4_K>(blocks, count, 256, out); break;
    case Format::Q6_K: expand_all<BlockQ6_K>(blocks, count, 256, out); break;
  }
}

}  // namespace trivet
