#include "attention/attention.h"

#include <algorithm>

#include "attention/attention_kernels.h"
#include "attention/attention_vectors.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_amx(CacheTypes types);
const AttentionKernels& fast_attention_kernels_avx512_bf16(CacheType type);
const AttentionKernels& fast_attention_kernels_amx(CacheType type);

const AttentionKernels& attention_kernels([[maybe_unused]] CacheTypes types,
                                          [[maybe_unused]] Numerics numerics, Isa isa) {
#ifdef __x86_64__
  if (numerics == Numerics::fast && types.keys == types.values && types.keys != CacheType::f32) {
    if (isa == Isa::avx512_bf16) return fast_attention_kernels_avx512_bf16(types.keys);
    if (isa == Isa::amx) return fast_attention_kernels_amx(types.keys);
  }
#endif
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

std::int64_t attention_partial_floats(const AttentionShape& shape, int tokens) {
  const int rows = AttentionKernels::padded(tokens * shape.group());
  return std::int64_t{rows} * (CacheLayer::padded(shape.head_dim) + 2);
}

}  // namespace trivet
