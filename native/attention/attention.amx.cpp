// AMX beside AVX-512: float32, to whose precision tiles do not compute, is left to vectors.
#include "attention/attention_chains.h"
#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"
#include "attention/attention_vectors.h"
#include "attention/products_amx.h"

namespace trivet {
namespace {

template <class Keys, class Values, int kParts = 2>
using Method = TileAttention<AmxProducts<kParts>, Packing<Keys, kParts>, Packing<Values, kParts>>;

template <class Keys>
const AttentionKernels& kernels_of(CacheType values) {
  switch (values) {
    case CacheType::f16:
      return kKernels<Method<Keys, PlainTile<f16>>>;
    case CacheType::bf16:
      if constexpr (std::is_same_v<Keys, PlainTile<bf16>>) {
        return kKernels<Method<Keys, Keys>, ChainAttention>;
      }
      return kKernels<Method<Keys, PlainTile<bf16>>>;
    default:
      return kKernels<Method<Keys, ScaledTile>>;
  }
}

template <class Tile>
const AttentionKernels& fast_kernels() {
  return kKernels<Method<Tile, Tile, 1>, VectorAttention>;
}

}  // namespace

const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_amx(CacheTypes types);
const AttentionKernels& attention_kernels_amx(CacheTypes types) {
  if (types.values == CacheType::f32) return attention_kernels_avx512();
  switch (types.keys) {
    case CacheType::f16:
      return kernels_of<PlainTile<f16>>(types.values);
    case CacheType::bf16:
      return kernels_of<PlainTile<bf16>>(types.values);
    case CacheType::q8_0:
      return kernels_of<ScaledTile>(types.values);
    default:
      return attention_kernels_avx512();
  }
}

const AttentionKernels& fast_attention_kernels_amx(CacheType type);
const AttentionKernels& fast_attention_kernels_amx(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return fast_kernels<PlainTile<f16>>();
    case CacheType::bf16:
      return fast_kernels<PlainTile<bf16>>();
    default:
      return fast_kernels<ScaledTile>();
  }
}

}  // namespace trivet
