// AMX beside AVX-512: float32, to whose precision tiles do not compute, is left to vectors.
#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"

namespace trivet {
namespace {

template <class Keys>
const AttentionKernels& kernels_of(CacheType values) {
  switch (values) {
    case CacheType::f16:
      return kKernels<TileAttention<Keys, Packing<PlainTile<f16>>>>;
    case CacheType::bf16:
      return kKernels<TileAttention<Keys, Packing<PlainTile<bf16>>>>;
    default:
      return kKernels<TileAttention<Keys, Packing<ScaledTile>>>;
  }
}

}  // namespace

const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_amx(CacheTypes types);
const AttentionKernels& attention_kernels_amx(CacheTypes types) {
  if (types.values == CacheType::f32) return attention_kernels_avx512();
  switch (types.keys) {
    case CacheType::f16:
      return kernels_of<Packing<PlainTile<f16>>>(types.values);
    case CacheType::bf16:
      return kernels_of<Packing<PlainTile<bf16>>>(types.values);
    case CacheType::q8_0:
      return kernels_of<Packing<ScaledTile>>(types.values);
    default:
      return attention_kernels_avx512();
  }
}

}  // namespace trivet
