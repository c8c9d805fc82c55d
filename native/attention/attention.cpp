#include "attention/attention.h"

#include <algorithm>

#include "attention/attention_kernels.h"
#include "attention/attention_vectors.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_amx(CacheTypes types);

const AttentionKernels& attention_kernels([[maybe_unused]] CacheTypes types, Isa isa) {
  switch (isa) {
#ifdef __x86_64__
    case Isa::avx2:
      return attention_kernels_avx2();
    case Isa::avx512:
    case Isa::avx512_bf16:
      return attention_kernels_avx512();
    case Isa::amx:
      return attention_kernels_amx(types);
#endif
    default:
      return kKernels<VectorAttention>;
  }
}

int attention_tile_tokens(const AttentionShape& shape) {
  return std::max(1, AttentionKernels::kRows / shape.group());
}

int attention_item_rows(const AttentionShape& shape) {
  return AttentionKernels::padded(attention_tile_tokens(shape) * shape.group());
}

std::int64_t attention_partial_floats(const AttentionShape& shape) {
  return std::int64_t{attention_item_rows(shape)} * (CacheLayer::padded(shape.head_dim) + 2);
}

}  // namespace trivet
