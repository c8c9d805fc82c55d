#include "formats/format.h"

#include <stdexcept>
#include <string>

#include "formats/blocks.h"

namespace trivet {

const FormatInfo* format_info(Format format) {
  static constexpr FormatInfo f32 = {"F32", 1, 4}, f16 = {"F16", 1, 2}, bf16 = {"BF16", 1, 2};
  static constexpr FormatInfo q4_0 = {"Q4_0", 32, sizeof(BlockQ4_0)}, q8_0 = {"Q8_0", 32, sizeof(BlockQ8_0)};
  static constexpr FormatInfo q4_k = {"Q4_K", 256, sizeof(BlockQ4_K)},
                              q6_k = {"Q6_K", 256, sizeof(BlockQ6_K)};
  switch (format) {
    case Format::F32: return &f32;
    case Format::F16: return &f16;
    case Format::BF16: return &bf16;
    case Format::Q4_0: return &q4_0;
    case Format::Q8_0: return &q8_0;
    case Format::Q4_K: return &q4_k;
    case Format::Q6_K: return &q6_k;
  }
  return nullptr;
}

Format computing_format(int type_id) {
  const Format format = static_cast<Format>(type_id);
  if (format_info(format) == nullptr) {
    throw std::invalid_argument("tensor type " + std::to_string(type_id) +
                                " does not compute; use F32, F16, BF16, Q8_0, Q4_0, Q4_K or Q6_K");
  }
  return format;
}

std::size_t row_bytes(Format format, std::int64_t columns) {
  const FormatInfo* info = format_info(format);
  return static_cast<std::size_t>(columns / info->block_size) * info->block_bytes;
}

ScaleMin unpack_scale(const BlockQ4_K& block, int j) {
  const std::uint8_t* s = block.scales;
  if (j < 4) return {static_cast<std::uint8_t>(s[j] & 63), static_cast<std::uint8_t>(s[j + 4] & 63)};
  return {static_cast<std::uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<std::uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}

}  // namespace trivet
