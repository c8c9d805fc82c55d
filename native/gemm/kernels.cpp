#include "gemm/kernels.h"

#include "isa.h"

namespace trivet {

const Kernels& kernels() {
  switch (active_isa()) {
#ifdef __x86_64__
    case Isa::avx2:
      return kAvx2Kernels;
    case Isa::avx512:
      return kAvx512Kernels;
    case Isa::amx:
      return kAmxKernels;
#endif
    default:
      return kGenericKernels;
  }
}

}  // namespace trivet
