#include "attention/attention_kernels.h"
#include "attention/attention_vectors.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2(CacheType type);
const AttentionKernels& attention_kernels_avx2(CacheType type) { return kernels<VectorAttention>(type); }

}  // namespace trivet
