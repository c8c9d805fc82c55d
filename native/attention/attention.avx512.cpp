#include "attention/attention_kernels.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx512(CacheType type);
const AttentionKernels& attention_kernels_avx512(CacheType type) { return kernels(type); }

}  // namespace trivet
