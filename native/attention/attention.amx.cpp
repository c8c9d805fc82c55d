// AMX beside AVX-512: a cache of float32, to whose precision tiles do not compute, is left to vectors.
#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx512(CacheType type);
const AttentionKernels& attention_kernels_amx(CacheType type);
const AttentionKernels& attention_kernels_amx(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return kKernels<TileAttention<PlainTile<f16>>>;
    case CacheType::bf16:
      return kKernels<TileAttention<PlainTile<bf16>>>;
    case CacheType::q8_0:
      return kKernels<TileAttention<ScaledTile>>;
    default:
      return attention_kernels_avx512(type);
  }
}

}  // namespace trivet
