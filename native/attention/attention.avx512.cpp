#include "attention/attention_kernels.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_avx512() { return kKernels; }

}  // namespace trivet
