// AMX beside AVX-512: float32, to whose precision tiles do not compute, is left to vectors.
#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"
#include "attention/products_amx.h"

namespace trivet {
namespace {

template <class Keys>
const AttentionKernels& kernels_of(CacheType values) {
  switch (values) {
    case CacheType::f16:
      return kKernels<TileAttention<AmxProducts<2>, Keys, Packing<PlainTile<f16>>>>;
    case CacheType::bf16:
      return kKernels<TileAttention<AmxProducts<2>, Keys, Packing<PlainTile<bf16>>>>;
    default:
      return kKernels<TileAttention<AmxProducts<2>, Keys, Packing<ScaledTile>>>;
  }
}

}  // namespace

const AttentionKernels& fast_attention_kernels_amx();
const AttentionKernels& fast_attention_kernels_amx() {
  using Tiles = Packing<PlainTile<bf16>>;
  return kFastKernels<TileAttention<AmxProducts<2>, Tiles, Tiles>,
                      TileAttention<AmxProducts<1>, Tiles, Tiles>>;
}

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
