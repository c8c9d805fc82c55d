#include "attention/attention_kernels.h"
#include "attention/attention_tiles.h"
#include "attention/attention_vectors.h"
#include "attention/products_vectors.h"

namespace trivet {

const AttentionKernels& fast_attention_kernels_avx512_bf16();
const AttentionKernels& fast_attention_kernels_avx512_bf16() {
  using Tiles = Packing<PlainTile<bf16>>;
  return kFastKernels<VectorAttention, TileAttention<VectorProducts, Tiles, Tiles>>;
}

}  // namespace trivet
