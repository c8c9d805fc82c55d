#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"
#include "attention/attention_vectors.h"
#include "attention/products_vectors.h"

namespace trivet {
namespace {

template <class Tile>
using Rounded = TileAttention<VectorProducts, Packing<Tile, 1>, Packing<Tile, 1>>;

}  // namespace

const AttentionKernels& fast_attention_kernels_avx512_bf16(CacheType type);
const AttentionKernels& fast_attention_kernels_avx512_bf16(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return kKernels<Rounded<PlainTile<f16>>, VectorAttention>;
    case CacheType::bf16:
      return kKernels<Rounded<PlainTile<bf16>>, VectorAttention>;
    default:
      return kKernels<Rounded<ScaledTile>, VectorAttention>;
  }
}

}  // namespace trivet
