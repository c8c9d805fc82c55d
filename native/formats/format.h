// The tensor formats that compute, numbered as in GGUF files: all of them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trivet {

// The formats in blocks: name, number, values per block, and the columns that share a scale of the int8
// activations which they are multiplied with. Block<name> and Panel<name> are their layouts in files and in
// memory, Weights<name> is how kernels read them.
#define TRIVET_BLOCK_FORMATS(X) \
  X(Q4_0, 2, 32, 32)            \
  X(Q4_1, 3, 32, 32)            \
  X(Q5_0, 6, 32, 32)            \
  X(Q5_1, 7, 32, 32)            \
  X(Q8_0, 8, 32, 32)            \
  X(Q2_K, 10, 256, 256)         \
  X(Q3_K, 11, 256, 256)         \
  X(Q4_K, 12, 256, 256)         \
  X(Q5_K, 13, 256, 256)         \
  X(Q6_K, 14, 256, 256)         \
  X(IQ2_XXS, 16, 256, 256)      \
  X(IQ2_XS, 17, 256, 256)       \
  X(IQ3_XXS, 18, 256, 256)      \
  X(IQ1_S, 19, 256, 256)        \
  X(IQ4_NL, 20, 32, 32)         \
  X(IQ3_S, 21, 256, 256)        \
  X(IQ2_S, 22, 256, 256)        \
  X(IQ4_XS, 23, 256, 256)       \
  X(IQ1_M, 29, 256, 256)        \
  X(TQ1_0, 34, 256, 256)        \
  X(TQ2_0, 35, 256, 256)        \
  X(MXFP4, 39, 32, 32)          \
  X(NVFP4, 40, 64, 32)          \
  X(Q1_0, 41, 128, 32)          \
  X(Q2_0, 42, 64, 32)

enum class Format : int {
  F32 = 0,
  F16 = 1,
  BF16 = 30,
#define TRIVET_NUMBER(name, id, values, group) name = id,
  TRIVET_BLOCK_FORMATS(TRIVET_NUMBER)
#undef TRIVET_NUMBER
};

inline constexpr int kFormats = 43;  // one more than the largest number

struct FormatInfo {
  const char* name;
  int block_size;  // values per block
  int block_bytes;
};

// Null for what is not a format of weights.
const FormatInfo* format_info(Format format);

// The format with this number. Throws std::invalid_argument when there is none.
Format computing_format(int type_id);

// Bytes of a row of `columns` values; columns must be a multiple of the block size.
std::size_t row_bytes(Format format, std::int64_t columns);

// Exact float32 values of `count` consecutive values in GGUF's own block layout.
void dequantize(Format format, const std::byte* blocks, std::int64_t count, float* out);

}  // namespace trivet
