#include "attention/attention.h"

#include <algorithm>

#include "attention/attention_kernels.h"
#include "isa.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();

const AttentionKernels& attention_kernels() {
#ifdef __x86_64__
  if (active_isa() >= Isa::avx512) return attention_kernels_avx512();
  if (active_isa() == Isa::avx2) return attention_kernels_avx2();
#endif
  return kKernels;
}

int attention_tile_tokens(const AttentionShape& shape) {
  return std::max(1, AttentionKernels::kRows / shape.group());
}

namespace {

std::int64_t max_rows(const AttentionShape& shape) { return attention_tile_tokens(shape) * shape.group(); }

std::int64_t padded(int head_dim) { return (head_dim + kLanes - 1) / kLanes * kLanes; }

}  // namespace

std::int64_t attention_scratch_floats(const AttentionShape& shape) {
  const std::int64_t dim = padded(shape.head_dim);
  return max_rows(shape) * (dim + kChunk + kTile + 1 + 2 * (dim + 2)) + kChunk * dim;
}

std::int64_t attention_partial_floats(const AttentionShape& shape) {
  return max_rows(shape) * (padded(shape.head_dim) + 2);
}

}  // namespace trivet
