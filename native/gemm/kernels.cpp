#include "gemm/kernels.h"

namespace trivet {

const Kernels& kernels(Isa isa) {
  switch (isa) {
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
