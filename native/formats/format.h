// The tensor formats that compute, numbered as in GGUF files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trivet {

enum class Format : int { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };

struct FormatInfo {
  const char* name;
  int block_size;  // values per block
  int block_bytes;
};

// Null for a format that does not compute.
const FormatInfo* format_info(Format format);

// The format with this number. Throws std::invalid_argument when it does not compute.
Format computing_format(int type_id);

// Bytes of a row of `columns` values; columns must be a multiple of the block size.
std::size_t row_bytes(Format format, std::int64_t columns);

// Exact float32 values of `count` consecutive values in GGUF's own block layout.
void dequantize(Format format, const std::byte* blocks, std::int64_t count, float* out);

}  // namespace trivet
