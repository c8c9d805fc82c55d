#include "attention/attention_kernels.h"
#include "attention/attention_vectors.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx2() { return kKernels<VectorAttention>; }

}  // namespace trivet
