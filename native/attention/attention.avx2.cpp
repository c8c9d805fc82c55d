#include "attention/attention_kernels.h"

namespace trivet {

const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx2() { return kKernels; }

}  // namespace trivet
