#include "gemm/kernels.h"

#include "isa.h"

namespace trivet {

const Kernels& kernels() {
#ifdef __x86_64__
  if (active_isa() == Isa::avx2) return kAvx2Kernels;
#endif
  return kGenericKernels;
}

}  // namespace trivet
