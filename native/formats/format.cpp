#include "formats/format.h"

#include <stdexcept>
#include <string>

#include "formats/blocks.h"

namespace trivet {

const FormatInfo* format_info(Format format) {
  static constexpr FormatInfo f32 = {"F32", 1, 4}, f16 = {"F16", 1, 2}, bf16 = {"BF16", 1, 2};
  switch (format) {
    case Format::F32:
      return &f32;
    case Format::F16:
      return &f16;
    case Format::BF16:
      return &bf16;
#define TRIVET_CASE(name, id, values, group)                                 \
  case Format::name: {                                                       \
    static constexpr FormatInfo info = {#name, values, sizeof(Block##name)}; \
    return &info;                                                            \
  }
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
  return nullptr;
}

Format computing_format(int type_id) {
  const Format format = static_cast<Format>(type_id);
  if (format_info(format) == nullptr) {
    throw std::invalid_argument("tensor type " + std::to_string(type_id) + " is not a format of weights");
  }
  return format;
}

std::size_t row_bytes(Format format, std::int64_t columns) {
  const FormatInfo* info = format_info(format);
  return static_cast<std::size_t>(columns / info->block_size) * info->block_bytes;
}

}  // namespace trivet
